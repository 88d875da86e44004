// Operands of a batch norm, checked, and its weight or bias as kernels take them; shared by every backend.
#pragma once

#include "common/activation.h"
#include "ops/tensor_utils.h"

namespace kshot {

// `tensor` is like `input`, [N, C, H, W].
inline void check_like_input(const char* name, const Tensor& tensor, const Tensor& input) {
  STD_TORCH_CHECK(tensor.device() == input.device() && tensor.scalar_type() == input.scalar_type() &&
                      sizes_of(tensor) == sizes_of(input),
                  name, " must be on the device, in dtype and shape like the input");
}

// What batch_norm_act takes on every backend. Kernels read through raw pointers, so nothing that they take
// for granted is left unchecked here and in `NormParameter`.
inline void check_norm_operands(const Tensor& input, const std::optional<Tensor>& residual,
                                const std::optional<Tensor>& mean, const std::optional<Tensor>& variance,
                                int64_t activation) {
  dtype_of(input);
  STD_TORCH_CHECK(input.dim() == 4, "input must be [N, C, H, W], got rank ", input.dim());
  if (residual) check_like_input("residual", *residual, input);
  STD_TORCH_CHECK(mean.has_value() == variance.has_value(),
                  "mean and variance must be given both or neither");
  for (const auto* statistic : {&mean, &variance}) {
    if (!*statistic) continue;
    dtype_of(**statistic);
    STD_TORCH_CHECK((*statistic)->device() == input.device() && (*statistic)->dim() == 1 &&
                        (*statistic)->size(0) == input.size(1),
                    "mean and variance must be [C] with C = ", input.size(1), ", on the input's device");
  }
  STD_TORCH_CHECK(0 <= activation && activation < kActivations, "activation must be 0 to ", kActivations - 1,
                  ", got ", activation);
}

// [C], [N, C] or none, contiguous and in the dtype of sums, and the elements from sample to sample: C, or 0
// for a parameter shared by the batch.
class NormParameter {
 public:
  // `input`: [N, C, H, W].
  NormParameter(const std::optional<Tensor>& tensor, const Tensor& input) {
    if (!tensor) return;
    const int64_t rank = tensor->dim(), samples = input.size(0), channels = input.size(1);
    dtype_of(*tensor);
    STD_TORCH_CHECK(tensor->device() == input.device() &&
                        (rank == 1 || (rank == 2 && tensor->size(0) == samples)) &&
                        tensor->size(rank - 1) == channels,
                    "weight and bias must be [C] or [N, C] with N, C = ", samples, ", ", channels,
                    ", on the input's device");
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
