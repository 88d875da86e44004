// Depthwise links of a chain on the CPU; the weight is [taps, C] or [N, taps, C] of float32.
#pragma once

#include "ops/chained_dense.h"

namespace kshot {

void chained_depthwise_forward(const ChainOperand& input, const Tensor& weight, const ConvGeometry& geometry,
                               const Tensor& output, float* mean, float* variance);

ChainedGradients chained_depthwise_backward(const ChainOperand& input, const ChainOutputGradient& gradient,
                                            const Tensor& weight, const ConvGeometry& geometry,
                                            const Tensor& grad_input);

}  // namespace kshot
