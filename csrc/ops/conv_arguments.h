// What the convolution operators share: geometry from arguments, channels_last tensors, the split into tasks.
#pragma once

#include <optional>
#include <vector>

#include "common/conv_geometry.h"
#include "common/pixels.h"
#include "ops/tensor_utils.h"

namespace kshot {

inline Sizes channels_last_strides(const Sizes& sizes) {  // [N, C, H, W]
  return {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]};
}

inline Tensor as_channels_last(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, "expected a tensor [N, C, H, W], got rank ", tensor.dim());
  return laid_out_as(tensor, channels_last_strides(sizes_of(tensor)));
}

// Elements from pixel to pixel where channels are neighbours and pixels lie at even distances, as in
// channels_last and in neighbouring channels of such a tensor; otherwise 0.
inline int64_t pixel_stride(const Tensor& tensor) {  // [N, C, H, W]
  const int64_t channels = tensor.size(1);
  if (channels > 1 && tensor.stride(1) != 1) return 0;
  int64_t stride = channels, pixels = 1;
  for (const int64_t d : {3, 2, 0}) {
    if (tensor.size(d) == 1) continue;
    if (pixels == 1) stride = tensor.stride(d);
    if (tensor.stride(d) != pixels * stride) return 0;
    pixels *= tensor.size(d);
  }
  return stride >= channels ? stride : 0;
}

// `tensor` itself where `pixel_stride` finds even distances, else a copy in channels_last.
inline Tensor with_even_pixels(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, "expected a tensor [N, C, H, W], got rank ", tensor.dim());
  return pixel_stride(tensor) ? tensor : as_channels_last(tensor);
}

// A tensor of `with_even_pixels` as kernels take it.
template <class T = void>
Pixels<T> pixels_of(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.data_ptr()), pixel_stride(tensor)};
}

inline Tensor new_channels_last(const Tensor& like, int64_t channels, int64_t height, int64_t width) {
  const Sizes sizes{like.size(0), channels, height, width};
  return empty_strided(sizes, channels_last_strides(sizes), like.scalar_type(), like);
}

// What fused_conv2d takes on every backend: images, a dictionary with all channels that the call uses, codes,
// gates and biases of matching shapes, everything on one device. Kernels read through raw pointers, so
// nothing that they take for granted is left unchecked here, in `conv_geometry` and in `check_gradient`.
inline void check_operands(const Tensor& input, const Tensor& weight, const Tensor& code,
                           const std::optional<Tensor>& gate, const std::optional<Tensor>& bias,
                           int64_t out_channels, bool depthwise) {
  STD_TORCH_CHECK(input.dim() == 4 && input.size(1) >= 1,
                  "input must be [N, C_in', H, W] with at least one channel, got rank ", input.dim());
  STD_TORCH_CHECK(weight.dim() == 5 && weight.size(0) >= 1 && 1 <= out_channels &&
                      out_channels <= weight.size(1) &&
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
  // One value for each active channel, or with a code per sample for each of these and sample.
  const auto per_channel = [&](const Tensor& values) {
    return values.device() == input.device() &&
           (values.dim() == 1 || (values.dim() == 2 && per_sample && values.size(0) == input.size(0))) &&
           values.size(values.dim() - 1) == out_channels;
  };
  STD_TORCH_CHECK(
      !gate || (gate->scalar_type() == sum_type_of(input) && per_channel(*gate)),
      "gate must be [C_out'] or, with a code per sample, [N, C_out'] of the sum type with N, C_out' = ",
      input.size(0), ", ", out_channels);
  STD_TORCH_CHECK(!gate || depthwise || !per_sample,
                  "a dense weight per sample takes no gate: gate the output");
  if (!bias) return;
  dtype_of(*bias);
  STD_TORCH_CHECK(per_channel(*bias),
                  "bias must be [C_out'] or, with a code per sample, [N, C_out'] with N, C_out' = ",
                  input.size(0), ", ", out_channels);
}

// Active output channels of a backward call.
inline int64_t channels_of_gradient(const Tensor& grad) {
  STD_TORCH_CHECK(grad.dim() == 4, "the output's gradient must be [N, C_out', H', W'], got rank ",
                  grad.dim());
  return grad.size(1);
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
  const auto axis = [&](size_t a) {
    const AxisArguments arguments{input.size(2 + static_cast<int64_t>(a)),
                                  kernel[a],
                                  stride[a],
                                  padding[2 * a],
                                  padding[2 * a + 1],
                                  dilation[a]};
    const char* error = error_of(arguments);
    STD_TORCH_CHECK(!error, error, "; got image ", arguments.input, ", kernel ", arguments.kernel,
                    ", stride ", arguments.stride, ", padding ", arguments.padding_before, " and ",
                    arguments.padding_after, ", dilation ", arguments.dilation);
    return axis_of(arguments);
  };
  const ConvAxis height = axis(0), width = axis(1);
  STD_TORCH_CHECK(std::max(height.input * width.input, height.output * width.output) <= INT32_MAX,
                  "images of more than 2^31 - 1 pixels are not supported");
  return {input.size(0), input.size(1), out_channels, height, width};
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
