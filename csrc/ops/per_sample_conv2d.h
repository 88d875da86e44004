// Dense convolution in channels_last on the CPU with a weight mixed anew for every sample: allocation and
// threads around cpu/dense_conv2d.cpp.
#pragma once

#include <optional>

#include "ops/conv_arguments.h"
#include "ops/dictionary.h"

namespace kshot {

// All of float32: input [N, C_in', H, W] and grad with even pixels, dictionary [K, C_out, C_in, KH, KW], code
// [N, K] or, by place, [KH * KW, N, K], and bias [N, C_out'], contiguous, or none. Returns [N, C_out', H',
// W'] in channels_last.
Tensor per_sample_forward(const Tensor& input, const Dictionary& dictionary, const Tensor& code,
                          const std::optional<Tensor>& bias, const ConvGeometry& geometry);

// Gradients; those not asked for are empty. That of the dictionary is whole.
struct PerSampleGradients {
  Tensor input, dictionary, code;
};
PerSampleGradients per_sample_backward(const Tensor& grad, const Tensor& input, const Dictionary& dictionary,
                                       const Tensor& code, const ConvGeometry& geometry, bool need_input,
                                       bool need_parameters);

}  // namespace kshot
