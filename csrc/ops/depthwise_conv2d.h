// Depthwise convolution in channels_last on the CPU: allocation and threads around cpu/depthwise_conv2d.cpp.
#pragma once

#include <optional>

#include "common/activation.h"
#include "ops/conv_arguments.h"

namespace kshot {

// input [N, C, H, W] and grad with even pixels, weight [taps, C] or [N, taps, C], bias [C], [N, C] or none,
// both contiguous and in the input's dtype. Returns [N, C, H', W'] in channels_last.
Tensor depthwise_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                         const ConvGeometry& geometry, Activation activation = Activation::kIdentity);

// The gradient of the weight has its shape, and the sum type.
ConvGradients depthwise_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                 const ConvGeometry& geometry, bool need_input, bool need_weight);

}  // namespace kshot
