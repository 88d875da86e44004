#include "shared_memory.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "emulation/error.h"
#include "emulation/runtime_api.h"
#include "machine.h"
#include "sanitizers.h"

#pragma GCC visibility push(hidden)
extern thread_local char kshot_emulation_shared_begin[64], kshot_emulation_shared_end[64];
#pragma GCC visibility pop

namespace emulation {
namespace {

constexpr size_t kGuard = 1024;
constexpr size_t kWhole = kGuard + kLargestSharedBytes + kGuard;

size_t dynamic_bytes_ = 0;

char* whole() {
  static char* memory = [] {
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, kWhole)) throw std::bad_alloc();
    return static_cast<char*>(memory);
  }();
  return memory;
}

std::map<const void*, int64_t>& limits() {
  static auto* limits = new std::map<const void*, int64_t>;
  return *limits;
}

bool inside(const void* address, size_t bytes, const char* begin, const char* end) {
  const char* first = static_cast<const char*>(address);
  return first >= begin && first + bytes <= end;
}

}  // namespace

void allow_dynamic_shared(const void* kernel, int64_t bytes) {
  if (bytes > kLargestSharedBytes) {
    fail("cudaFuncSetAttribute: " + std::to_string(bytes) + " bytes of shared memory, a block has " +
         std::to_string(kLargestSharedBytes));
  }
  limits()[kernel] = bytes;
}

int64_t dynamic_shared_limit(const void* kernel) {
  const auto found = limits().find(kernel);
  return found == limits().end() || found->second < kDefaultSharedBytes ? kDefaultSharedBytes : found->second;
}

void* dynamic_shared_memory() {
  return whole() + kGuard;
}

void begin_shared_memory(int64_t dynamic_bytes) {
  dynamic_bytes_ = static_cast<size_t>(dynamic_bytes);
  char* memory = whole();
  sanitizers::unpoison(memory, kWhole);
  std::memset(memory, kPoison, kGuard + dynamic_bytes_ + kGuard);
  sanitizers::poison(memory, kGuard);
  sanitizers::poison(memory + kGuard + dynamic_bytes_, kWhole - kGuard - dynamic_bytes_);
  char* begin = kshot_emulation_shared_begin;
  std::memset(begin, kPoison, static_cast<size_t>(kshot_emulation_shared_end - begin));
}

std::string mistake_in_shared_memory() {
#if !defined(KSHOT_EMULATION_ASAN)
  const unsigned char* memory = reinterpret_cast<unsigned char*>(whole());
  for (size_t i = 0; i < kGuard; ++i) {
    if (memory[kGuard - 1 - i] != kPoison) {
      return "wrote " + std::to_string(i + 1) + " bytes before its dynamic shared memory";
    }
    if (memory[kGuard + dynamic_bytes_ + i] != kPoison) {
      return "wrote " + std::to_string(i) + " bytes behind the end of its " + std::to_string(dynamic_bytes_) +
             " bytes of dynamic shared memory";
    }
  }
#endif
  return "";
}

bool is_shared(const void* address, size_t bytes) {
  const char* dynamic = whole() + kGuard;
  if (inside(address, bytes, dynamic, dynamic + dynamic_bytes_)) return true;
  return inside(address, bytes, kshot_emulation_shared_begin, kshot_emulation_shared_end);
}

}  // namespace emulation
