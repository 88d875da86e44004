// The passes of batch_norm_act over its tensors; ops/norm_pass.cpp for the CPU, ops_cuda/norm_pass.cpp for
// CUDA.
#pragma once

#include <optional>

#include "ops/norm_parameter.h"

namespace kshot {

// Operands as batch_norm_act takes them, but weight and bias mixed: each [C], [N, C] or none.
struct NormOperands {
  const Tensor& input;
  std::optional<Tensor> weight, bias;
  const std::optional<Tensor>& residual;
  double eps;
  int64_t activation;

  bool per_sample() const { return (weight && weight->dim() == 2) || (bias && bias->dim() == 2); }
};

// Mean and variance are those of the batch where none are given; else they are empty.
struct NormOutput {
  Tensor output, mean, variance;
};

// Gradients of weight and bias are [C], or [N, C] if one of the two is per sample, of the sum type.
struct NormGradients {
  Tensor input, weight, bias, residual;
};

NormOutput run_norm(const NormOperands& operands, const std::optional<Tensor>& mean,
                    const std::optional<Tensor>& variance);

// The residual's gradient is empty unless it is needed.
NormGradients run_norm_backward(const Tensor& grad, const NormOperands& operands, const Tensor& mean,
                                const Tensor& variance, bool training, bool need_residual);

}  // namespace kshot
