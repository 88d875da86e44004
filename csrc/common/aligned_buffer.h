// Scratch memory of the kernels: not initialised, aligned so that no vector straddles two cache lines, and
// large buffers on huge pages, of which few need to be faulted in.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace kshot {

template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    const bool huge = bytes >= kHugePage / 2;
    const std::align_val_t alignment{huge ? kHugePage : kLine};
    void* data = ::operator new(bytes, alignment);
#if defined(__linux__)
    if (huge) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    data_ = std::unique_ptr<T, Free>(static_cast<T*>(data), Free{alignment});
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  static constexpr size_t kLine = 64, kHugePage = size_t{1} << 21;
  struct Free {
    std::align_val_t alignment{kLine};
    void operator()(T* data) const { ::operator delete(data, alignment); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace kshot
