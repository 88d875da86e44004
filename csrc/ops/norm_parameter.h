// Weight or bias of a batch norm, as its kernels take it; shared by every backend.
#pragma once

#include "ops/tensor_utils.h"

namespace kshot {

// [C], [N, C] or none, contiguous and in the dtype of sums, and the elements from sample to sample: C, or 0
// for a parameter shared by the batch.
class NormParameter {
 public:
  // `input`: [N, C, H, W].
  NormParameter(const std::optional<Tensor>& tensor, const Tensor& input) {
    if (!tensor) return;
    const int64_t rank = tensor->dim(), samples = input.size(0), channels = input.size(1);
    STD_TORCH_CHECK(
        (rank == 1 || (rank == 2 && tensor->size(0) == samples)) && tensor->size(rank - 1) == channels,
        "weight and bias must be [C] or [N, C] with N, C = ", samples, ", ", channels);
    tensor_ = as_contiguous(in_dtype(*tensor, sum_type_of(input)));
    stride_ = rank == 2 ? channels : 0;
  }

  const void* data() const { return tensor_ ? tensor_->data_ptr() : nullptr; }
  int64_t stride() const { return stride_; }

 private:
  std::optional<Tensor> tensor_;
  int64_t stride_ = 0;
};

}  // namespace kshot
