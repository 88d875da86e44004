// The traffic build: every access of a kernel comes here, from the hooks that the compiler's instrumentation
// for the thread sanitizer calls and from the emulator's own operations.
//
// Lanes of a warp run one after another. What they do in one instruction is put together again by counting:
// the n-th execution of an instruction by each lane belongs to one access of the warp.
#if defined(KSHOT_EMULATION_TRAFFIC)

#include <algorithm>
#include <cstdio>
#include <deque>
#include <unordered_map>
#include <vector>

#include "device_memory.h"
#include "emulation/control.h"
#include "machine.h"
#include "observer.h"
#include "shared_memory.h"
#include "touched_memory.h"
#include "traffic_counts.h"
#include "warp_access.h"

extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[];  // where the module begins

namespace emulation {
namespace {

constexpr size_t kWidest = 16;  // bytes of a lane in one instruction

uint64_t address_in_module(const void* address) {
  return static_cast<uint64_t>(static_cast<const char*>(address) - __ehdr_start);
}

// Tells instructions and sites apart, in 58 bits.
uint64_t key_of(const void* instruction, const Site& site) {
  if (instruction) return address_in_module(instruction);
  return (uint64_t{1} << 57) + (address_in_module(site.file) << 16) + static_cast<uint64_t>(site.line);
}

// One instruction in one warp.
struct Executions {
  const Instruction* instruction = nullptr;
  InstructionCounts* counts = nullptr;
  uint32_t done[32] = {};  // by each lane
  uint32_t first = 0;      // execution that `open` begins with
  std::deque<WarpAccess> open;
};

class Traffic {
 public:
  void begin_launch(const LaunchSettings& settings);
  void end_launch();
  void begin_block() { warps_.assign(32, {}); }
  void end_block();

  // The current thread's access by an instruction: an address in the module, or a site. One of no bytes only
  // counts as the lane's share in its warp's access.
  void see(uintptr_t address, size_t bytes, bool write, const void* instruction, const Site& site);
  void see_tile(uintptr_t address, size_t stride, int lines, size_t bytes, bool write, const Site& site);

  bool counting = false;
  TrafficCounts counts;

 private:
  TouchedMemory* buffer_of(uintptr_t address, size_t bytes, const void* instruction, const Site& site);
  static void touch(TouchedMemory& buffer, uintptr_t address, size_t bytes, bool write,
                    const void* instruction, const Site& site);
  Executions& executions_of(uint64_t key, const Instruction& instruction);
  static void close(Executions& executions);

  KernelCounts* kernel_ = nullptr;
  KernelCounts unwanted_;  // of launches that are checked, not counted
  std::vector<TouchedMemory> buffers_;
  size_t last_buffer_ = 0;
  std::vector<std::unordered_map<uint64_t, Executions>> warps_;
};

Traffic& traffic() {
  static auto* traffic = new Traffic;
  return *traffic;
}

void Traffic::begin_launch(const LaunchSettings& settings) {
  unwanted_ = {};
  kernel_ = counting ? &counts[address_in_module(settings.function)] : &unwanted_;
  kernel_->name = settings.kernel;
  ++kernel_->launches;
  buffers_.clear();
  for (const DeviceBuffer* buffer : device_buffers()) buffers_.emplace_back(*buffer);
  last_buffer_ = 0;
}

void Traffic::end_launch() {
  for (const TouchedMemory& buffer : buffers_) {
    for (const bool write : {false, true}) {
      kernel_->unique_bytes[write] += buffer.unique_bytes(write);
      kernel_->block_sectors[write] += buffer.block_sectors(write);
    }
  }
}

void Traffic::end_block() {
  for (auto& warp : warps_) {
    for (auto& [key, executions] : warp) {
      while (!executions.open.empty()) close(executions);
    }
  }
}

void Traffic::close(Executions& executions) {
  const WarpAccess& access = executions.open.front();
  if (executions.instruction->shared) {
    count_shared(access, *executions.counts);
  } else {
    count_global(access, *executions.counts);
  }
  executions.open.pop_front();
  ++executions.first;
}

std::string place(const void* instruction, const Site& site) {
  if (!instruction) return std::string(site.file) + ":" + std::to_string(site.line);
  char text[32];
  std::snprintf(text, sizeof(text), "[0x%llx]",
                static_cast<unsigned long long>(address_in_module(instruction)));
  return text;
}

TouchedMemory* Traffic::buffer_of(uintptr_t address, size_t bytes, const void* instruction,
                                  const Site& site) {
  if (last_buffer_ >= buffers_.size() || !buffers_[last_buffer_].contains(address)) {
    last_buffer_ = 0;
    while (last_buffer_ < buffers_.size() && !buffers_[last_buffer_].contains(address)) ++last_buffer_;
  }
  if (last_buffer_ < buffers_.size() && !buffers_[last_buffer_].misses(address, bytes)) {
    return &buffers_[last_buffer_];
  }
  for (const TouchedMemory& buffer : buffers_) {
    if (buffer.misses(address, bytes))
      fail("access beside '" + buffer.name() + "' at " + place(instruction, site));
  }
  return nullptr;
}

void Traffic::touch(TouchedMemory& buffer, uintptr_t address, size_t bytes, bool write,
                    const void* instruction, const Site& site) {
  if (buffer.touch(address, bytes, write, static_cast<int32_t>(machine().block()))) {
    fail(std::string(write ? "writes" : "reads") + " what another block " +
         (write ? "reads or writes" : "writes") + ", in '" + buffer.name() + "' at " +
         place(instruction, site));
  }
}

Executions& Traffic::executions_of(uint64_t key, const Instruction& instruction) {
  Executions& executions = warps_[machine().current().warp][key];
  if (!executions.counts) {
    auto& one = kernel_->instructions.try_emplace(key, instruction, InstructionCounts()).first->second;
    executions.instruction = &one.first;
    executions.counts = &one.second;
  }
  return executions;
}

void Traffic::see(uintptr_t address, size_t bytes, bool write, const void* instruction, const Site& site) {
  const bool shared = is_shared(reinterpret_cast<const void*>(address), bytes);
  if (!shared && bytes > 0) {
    if (machine().current().fiber.holds(reinterpret_cast<const void*>(address))) return;
    TouchedMemory* buffer = buffer_of(address, bytes, instruction, site);
    if (!buffer) return;  // the kernel's parameters, constants, the emulator's variables
    touch(*buffer, address, bytes, write, instruction, site);
  }
  const uint64_t where = key_of(instruction, site);
  const Thread& thread = machine().current();
  const unsigned living = machine().living_lanes(thread.warp);
  for (size_t offset = 0; offset < std::max<size_t>(bytes, 1); offset += kWidest) {
    const uint64_t key = where * 64 + offset / kWidest % 16 * 4 + write * 2 + shared;
    Executions& executions = executions_of(key, {instruction ? where : 0, site, write, shared});
    const uint32_t n = executions.done[thread.lane]++ - executions.first;
    while (executions.open.size() <= n) executions.open.emplace_back();
    WarpAccess& access = executions.open[n];
    access.lanes |= 1u << thread.lane;
    access.address[thread.lane] = address + offset;
    access.bytes[thread.lane] = static_cast<uint16_t>(std::min(kWidest, bytes - offset));
    if (n == 0 && access.lanes == living) close(executions);
  }
}

// As the device's instructions for matrices do it, the address is that of the lane's row: loads take eight
// rows of 16 bytes at a time, stores of sums four rows of 32 bytes.
void Traffic::see_tile(uintptr_t address, size_t stride, int lines, size_t bytes, bool write,
                       const Site& site) {
  const bool shared = is_shared(reinterpret_cast<const void*>(address), 1);
  if (machine().current().lane != 0) return;
  const uint64_t key = key_of(nullptr, site) * 64 + write * 2 + shared;
  InstructionCounts& counts = *executions_of(key, {0, site, write, shared}).counts;
  const size_t piece = write ? 32 : 16;
  const int rows = static_cast<int>(128 / piece);
  for (size_t offset = 0; offset < bytes; offset += piece) {
    for (int line = 0; line < lines; line += rows) {
      WarpAccess access;
      int lane = 0;
      for (int row = line; row < std::min(lines, line + rows); ++row) {
        const uintptr_t begin = address + static_cast<size_t>(row) * stride + offset;
        const size_t size = std::min(piece, bytes - offset);
        if (!shared) {
          if (TouchedMemory* buffer = buffer_of(begin, size, nullptr, site)) {
            touch(*buffer, begin, size, write, nullptr, site);
          }
        }
        for (size_t part = 0; part < size; part += 16) {
          access.lanes |= 1u << lane;
          access.address[lane] = begin + part;
          access.bytes[lane] = 16;
          ++lane;
        }
      }
      if (shared) {
        count_shared(access, counts);
      } else {
        count_global(access, counts);
      }
    }
  }
}

void see(const void* address, size_t bytes, bool write, const void* instruction) {
  if (!machine().running()) return;  // the launch function's own variables
  traffic().see(reinterpret_cast<uintptr_t>(address), bytes, write, instruction, {"", 0});
}

}  // namespace

void observe_launch(const LaunchSettings& settings) {
  traffic().begin_launch(settings);
}
void observe_launch_end() {
  traffic().end_launch();
}
void observe_block() {
  traffic().begin_block();
}
void observe_block_end() {
  traffic().end_block();
}
void observe_access(const void* address, size_t bytes, bool write, const Site& site) {
  traffic().see(reinterpret_cast<uintptr_t>(address), bytes, write, nullptr, site);
}
void observe_tile(const void* address, size_t stride, int lines, size_t bytes, bool write, const Site& site) {
  traffic().see_tile(reinterpret_cast<uintptr_t>(address), stride, lines, bytes, write, site);
}

void start_counting() {
  traffic().counts.clear();
  traffic().counting = true;
}
std::string stop_counting() {
  traffic().counting = false;
  return to_json(traffic().counts);
}

}  // namespace emulation

// The hooks. Before the return address lies the instrumented access, to which its line belongs.
#define HOOK(name, bytes, write)                                                                \
  void name(void* address) {                                                                    \
    emulation::see(address, bytes, write, static_cast<char*>(__builtin_return_address(0)) - 1); \
  }
#define HOOKS(bytes)                               \
  HOOK(__tsan_read##bytes, bytes, false)           \
  HOOK(__tsan_write##bytes, bytes, true)           \
  HOOK(__tsan_unaligned_read##bytes, bytes, false) \
  HOOK(__tsan_unaligned_write##bytes, bytes, true)

#pragma GCC visibility push(hidden)
extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* address, size_t bytes) {
  emulation::see(address, bytes, false, static_cast<char*>(__builtin_return_address(0)) - 1);
}
void __tsan_write_range(void* address, size_t bytes) {
  emulation::see(address, bytes, true, static_cast<char*>(__builtin_return_address(0)) - 1);
}
}
#pragma GCC visibility pop

#endif
