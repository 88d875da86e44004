#include "device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "emulation/error.h"
#include "emulation/runtime_api.h"
#include "sanitizers.h"
#include "schedule.h"
#include "shared_memory.h"

namespace emulation {
namespace {

// As cudaMalloc aligns.
[[maybe_unused]] constexpr size_t kAlignment = 256;

// Bytes on either side that must stay as they are. The address sanitizer has its own, right behind the end.
#if defined(KSHOT_EMULATION_ASAN)
constexpr size_t kGuard = 0;
#else
constexpr size_t kGuard = 1024;
#endif

#if defined(KSHOT_EMULATION_ASAN) || defined(KSHOT_EMULATION_TSAN)

void* allocate(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes)) throw std::bad_alloc();
  return memory;
}
void release(void* memory, size_t) {
  std::free(memory);
}

#else

// Farther away nothing may be touched: a wild access is a fault of the kernel (signals.cpp), not one of
// Python's.
constexpr size_t kFar = size_t{4} << 20, kPage = 4096;

size_t whole_pages(size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

void* allocate(size_t bytes) {
  void* memory = mmap(nullptr, kFar + whole_pages(bytes) + kFar, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  char* usable = static_cast<char*>(memory) + kFar;
  mprotect(usable, whole_pages(bytes), PROT_READ | PROT_WRITE);
  return usable;
}
void release(void* memory, size_t bytes) {
  munmap(static_cast<char*>(memory) - kFar, kFar + whole_pages(bytes) + kFar);
}

#endif

}  // namespace

std::vector<DeviceBuffer*>& device_buffers() {
  static auto* buffers = new std::vector<DeviceBuffer*>;
  return *buffers;
}

std::string mistake_in_device_memory() {
  for (const DeviceBuffer* buffer : device_buffers()) {
    const std::string mistake = buffer->mistake();
    if (!mistake.empty()) return mistake;
  }
  return "";
}

DeviceBuffer::DeviceBuffer(std::string name, size_t bytes, const void* contents, bool constant)
    : name_(std::move(name)), bytes_(bytes) {
  const size_t shift = static_cast<size_t>(schedule().shift);
  allocated_ = kGuard + shift + bytes + kGuard;
  allocation_ = static_cast<char*>(allocate(allocated_));
  data_ = allocation_ + kGuard + shift;
  std::memset(allocation_, kPoison, kGuard + shift);
  std::memset(data_ + bytes, kPoison, kGuard);
  if (contents) {
    std::memcpy(data_, contents, bytes);
  } else {
    std::memset(data_, kPoison, bytes);
  }
  if (constant) {
    original_ = static_cast<char*>(std::malloc(bytes + 1));
    std::memcpy(original_, data_, bytes);
  }
  device_buffers().push_back(this);
}

DeviceBuffer::~DeviceBuffer() {
  auto& buffers = device_buffers();
  buffers.erase(std::find(buffers.begin(), buffers.end(), this));
  std::free(original_);
  release(allocation_, allocated_);
}

std::string DeviceBuffer::mistake() const {
  const auto* data = reinterpret_cast<const unsigned char*>(data_);
  for (size_t i = 0; i < kGuard; ++i) {
    if (data[bytes_ + i] != kPoison) {
      return "wrote " + std::to_string(i) + " bytes behind the end of '" + name_ + "', which has " +
             std::to_string(bytes_);
    }
    if (data[-1 - static_cast<ptrdiff_t>(i)] != kPoison) {
      return "wrote " + std::to_string(i + 1) + " bytes before '" + name_ + "'";
    }
  }
  if (original_ && std::memcmp(original_, data_, bytes_) != 0) {
    size_t i = 0;
    while (original_[i] == data_[i]) ++i;
    return "changed byte " + std::to_string(i) + " of '" + name_ + "', which is an input";
  }
  return "";
}

void fill_device(void* to, int value, size_t bytes) {
  sanitizers::see_write(to, bytes);
  std::memset(to, value, bytes);
}

void copy_device(void* to, const void* from, size_t bytes) {
  sanitizers::see_read(from, bytes);
  sanitizers::see_write(to, bytes);
  std::memcpy(to, from, bytes);
}

}  // namespace emulation
