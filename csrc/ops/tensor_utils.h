// What the operators' glue needs of tensors beyond the stable ABI: dtype table, strided allocation, layouts.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <optional>

#include "common/dtype.h"
#include "common/sizes.h"
#include "ops/torch_compat.h"

namespace kshot {

using torch::stable::Tensor;

inline DType dtype_of(const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, "expected float32, float64, bfloat16 or float16, got scalar type ",
                      static_cast<int>(tensor.scalar_type()));
  }
}

// The dtype in which sums over elements of `tensor` are taken: that of codes and gates.
inline torch::headeronly::ScalarType sum_type_of(const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Sizes sizes_of(const Tensor& tensor) {
  return Sizes(tensor.sizes().begin(), tensor.sizes().end());
}
inline Sizes strides_of(const Tensor& tensor) {
  return Sizes(tensor.strides().begin(), tensor.strides().end());
}

inline int64_t product(const Sizes& sizes, size_t from = 0) {
  int64_t result = 1;
  for (size_t d = from; d < sizes.size(); ++d) result *= sizes[d];
  return result;
}

// Whether elements lie in memory as `strides` would have them; strides of dimensions of size one do not
// matter.
inline bool lies_as(const Tensor& tensor, const Sizes& strides) {
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1 && tensor.stride(d) != strides[d]) return false;
  }
  return true;
}

inline Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return strides;
}

inline int64_t bytes_of(const Tensor& tensor) {
  return product(sizes_of(tensor)) * static_cast<int64_t>(tensor.element_size());
}

// Whether a result is so large that the caches will have lost it when it is read.
inline bool exceeds_caches(const Tensor& tensor) {
  constexpr int64_t kBytes = 4 << 20;
  return bytes_of(tensor) >= kBytes;
}

// Asks the system to back a large new tensor with huge pages: writing 50 MB for the first time otherwise
// faults in 12,000 small ones, which costs more than the kernels' own memory traffic. Only advice; elsewhere
// a no-op.
inline void advise_huge_pages(const Tensor& tensor, int64_t elements) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 1 << 21;
  const int64_t bytes = elements * static_cast<int64_t>(tensor.element_size());
  if (!tensor.is_cpu() || bytes < 2 * static_cast<int64_t>(kHugePage)) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t begin = (address + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (address + static_cast<uintptr_t>(bytes)) & ~(kHugePage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)tensor;
  (void)elements;
#endif
}

inline Tensor empty_strided(const Sizes& sizes, const Sizes& strides, torch::headeronly::ScalarType dtype,
                            const Tensor& like) {
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      static_cast<int32_t>(
          torch::stable::detail::to<int32_t>(torch::stable::detail::from(like.device().type()))),
      like.get_device_index(), &handle));
  Tensor tensor(handle);
  advise_huge_pages(tensor, product(sizes));
  return tensor;
}

inline Tensor none_like(const Tensor& like) {
  return empty_strided({0}, {1}, like.scalar_type(), like);
}

// The memory of `tensor`, from its first element on, with other sizes and strides.
inline Tensor seen_as(const Tensor& tensor, const Sizes& sizes, const Sizes& strides) {
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
      tensor.get(), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), 0, &handle));
  return Tensor(handle);
}

// `tensor` itself if it lies in memory as `strides` say, else a copy that does.
inline Tensor laid_out_as(const Tensor& tensor, const Sizes& strides) {
  if (lies_as(tensor, strides)) return tensor;
  Tensor copy = empty_strided(sizes_of(tensor), strides, tensor.scalar_type(), tensor);
  torch::stable::copy_(copy, tensor);
  return copy;
}

// The same for contiguous memory. Calls through the dispatcher are spared where nothing is to be done: to
// small operators they are dear.
inline Tensor as_contiguous(const Tensor& tensor) {
  return laid_out_as(tensor, contiguous_strides(sizes_of(tensor)));
}

inline Tensor in_dtype(const Tensor& tensor, torch::headeronly::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

}  // namespace kshot
