// Dense convolution in channels_last on the CPU, one weight for the batch: allocation and threads around
// cpu/dense_conv2d.cpp.
#pragma once

#include <optional>

#include "ops/conv_arguments.h"

namespace kshot {

// All of float32: input [N, C_in, H, W] and grad with even pixels, weight [C_out, C_in, KH, KW], bias
// [C_out], contiguous, or none. Returns [N, C_out, H', W'] in channels_last.
Tensor dense_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const ConvGeometry& geometry);

ConvGradients dense_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                             const ConvGeometry& geometry, bool need_input, bool need_weight);

}  // namespace kshot
