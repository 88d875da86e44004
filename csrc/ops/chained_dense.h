// Dense links of a chain on the CPU, one weight for the batch.
#pragma once

#include "ops/chain_operands.h"
#include "ops/mixing.h"

namespace kshot {

// The mixed weight of a dense link; that of a single copy as it lies.
inline Tensor dense_effective(const Mixing& mixing) {
  if (const auto part = mixing.in_place()) return *part;
  Tensor effective = mixing.new_effective();
  run_forward({mixing.forward_into(effective)}, effective);
  return in_dtype(effective, torch::headeronly::ScalarType::Float);
}

// What is done to the sums of an output before they are stored.
struct OutputMap {
  const float* bias = nullptr;  // [C_out]
  Activation activation = Activation::kIdentity;
};

// weight: [C_out, C_in, KH, KW] of float32. Fills output, [N, C_out, H', W'] in channels_last, and its
// moments, mean and variance [C_out], unless these are null.
void chained_dense_forward(const ChainOperand& input, const Tensor& weight, const ConvGeometry& geometry,
                           const Tensor& output, float* mean, float* variance, const OutputMap& map = {});

struct ChainedGradients {
  Tensor weight;  // of the effective weight, in float32; empty if not asked for
  Tensor sums;    // see ChainOperand::gradients; empty without a norm
};

// Fills grad_input, unless it is empty.
ChainedGradients chained_dense_backward(const ChainOperand& input, const ChainOutputGradient& gradient,
                                        const Tensor& weight, const ConvGeometry& geometry,
                                        const Tensor& grad_input, bool need_weight);

}  // namespace kshot
