// A 1x1 convolution of one pixel with a code per sample: allocation and threads around
// cpu/stacked_linear.cpp. Operands as in per_sample_conv2d.h.
#pragma once

#include "ops/per_sample_conv2d.h"

namespace kshot {

// Whether each sample is one row, and its weight a matrix.
bool is_one_row(const ConvGeometry& geometry);

Tensor stacked_forward(const Tensor& input, const Tensor& innermost, const Tensor& code,
                       const std::optional<Tensor>& bias, const ConvGeometry& geometry);

PerSampleGradients stacked_backward(const Tensor& grad, const Tensor& input, const Tensor& innermost,
                                    const Tensor& code, const ConvGeometry& geometry, bool need_input,
                                    bool need_parameters);

}  // namespace kshot
