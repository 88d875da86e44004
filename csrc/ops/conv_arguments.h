// What the convolution operators share: geometry from arguments, channels_last tensors, the split into tasks.
#pragma once

#include <optional>
#include <vector>

#include "common/conv_geometry.h"
#include "ops/tensor_utils.h"

namespace kshot {

inline Sizes channels_last_strides(const Sizes& sizes) {  // [N, C, H, W]
  return {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]};
}

inline Tensor as_channels_last(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, "expected a tensor [N, C, H, W], got rank ", tensor.dim());
  return laid_out_as(tensor, channels_last_strides(sizes_of(tensor)));
}

inline Tensor new_channels_last(const Tensor& like, int64_t channels, int64_t height, int64_t width) {
  const Sizes sizes{like.size(0), channels, height, width};
  return empty_strided(sizes, channels_last_strides(sizes), like.scalar_type(), like);
}

// What mixed_conv2d takes on every backend: a dictionary with all channels that the call uses, codes and
// biases of matching shapes, everything on one device.
inline void check_operands(const Tensor& input, const Tensor& weight, const Tensor& code,
                           const std::optional<Tensor>& bias, int64_t out_channels, bool depthwise) {
  STD_TORCH_CHECK(weight.dim() == 5 && out_channels <= weight.size(1) &&
                      (depthwise ? weight.size(2) == 1 && out_channels == input.size(1)
                                 : input.size(1) <= weight.size(2)),
                  "weight must be a dictionary [K, C_out, C_in, KH, KW] that covers the active channels");
  STD_TORCH_CHECK(weight.device() == input.device() && sum_type_of(weight) == sum_type_of(input),
                  "weight must be on the input's device, and float64 only if that is");
  const bool per_sample = code.dim() == 2;
  STD_TORCH_CHECK(code.device() == input.device() && code.scalar_type() == sum_type_of(input) &&
                      (per_sample ? code.size(0) == input.size(0) : code.dim() == 1) &&
                      code.size(code.dim() - 1) == weight.size(0),
                  "code must be [K] or [N, K] of the sum type with N, K = ", input.size(0), ", ",
                  weight.size(0));
  if (!bias) return;
  STD_TORCH_CHECK(
      bias->device() == input.device() &&
          (bias->dim() == 1 || (bias->dim() == 2 && per_sample && bias->size(0) == input.size(0))) &&
          bias->size(bias->dim() - 1) == out_channels,
      "bias must be [C_out'] or, with a code per sample, [N, C_out'] with N, C_out' = ", input.size(0), ", ",
      out_channels);
}

// `grad` as the gradient of an output of this geometry.
inline void check_gradient(const Tensor& grad, const Tensor& input, const ConvGeometry& geometry) {
  STD_TORCH_CHECK(grad.device() == input.device() && grad.scalar_type() == input.scalar_type() &&
                      sizes_of(grad) == Sizes({geometry.batch, geometry.out_channels, geometry.height.output,
                                               geometry.width.output}),
                  "the output's gradient must have its shape, dtype and device");
}

// `kernel`, `stride` and `dilation` are (height, width); `padding` is (top, bottom, left, right).
inline ConvGeometry conv_geometry(const Tensor& input, int64_t out_channels,
                                  const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                                  const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  STD_TORCH_CHECK(kernel.size() == 2 && stride.size() == 2 && padding.size() == 4 && dilation.size() == 2,
                  "expected kernel, stride, dilation of 2 and padding of 4 entries");
  const auto axis = [&](int64_t size, size_t a) {
    const int64_t reach = dilation[a] * (kernel[a] - 1);
    const int64_t padded = size + padding[2 * a] + padding[2 * a + 1];
    STD_TORCH_CHECK(padded > reach, "the kernel, ", reach + 1,
                    " wide with its dilation, is larger than the padded input, ", padded);
    return ConvAxis{size,       (padded - reach - 1) / stride[a] + 1, kernel[a], stride[a], padding[2 * a],
                    dilation[a]};
  };
  return {input.size(0), input.size(1), out_channels, axis(input.size(2), 0), axis(input.size(3), 1)};
}

// Gradients of a convolution; those not asked for are empty.
struct ConvGradients {
  Tensor input, weight;
};

// Channels that one task takes, so that `samples` tasks or more give every thread some: a multiple of 32,
// whole vectors in any instruction set, unless all channels go to one task.
inline int64_t channels_per_task(int64_t samples, int64_t channels) {
  const int64_t threads = torch::stable::get_num_threads();
  if (samples >= threads || samples == 0) return std::max<int64_t>(channels, 1);
  const int64_t parts = (threads + samples - 1) / samples;
  return std::max<int64_t>(32, (channels / parts + 31) / 32 * 32);
}

}  // namespace kshot
