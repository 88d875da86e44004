// Where the kernels of an operator run: torch's current stream on the device of its tensors.
#pragma once

#include "ops/tensor_utils.h"

namespace kshot {

// Makes the device of `tensor` the current one while it lives, and tells torch's current stream there. Raises
// an error if one of earlier work is pending, which the first kernel would be blamed for; what the operator's
// own kernels do wrong, KSHOT_LAUNCH tells.
class Launch {
 public:
  explicit Launch(const Tensor& tensor);
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  void* stream() const { return stream_; }

 private:
  void* device_guard_ = nullptr;
  void* stream_ = nullptr;
};

// Scratch memory on the device of `like`, from torch's allocator, as CUDA graphs need it.
inline Tensor scratch(int64_t bytes, const Tensor& like) {
  return empty_strided({bytes}, {1}, torch::headeronly::ScalarType::Byte, like);
}

}  // namespace kshot
