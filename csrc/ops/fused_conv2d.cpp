// Operator fused_conv2d and its backward on the CPU: mixing and convolution in one call. Kernels:
// cpu/effective_weight.cpp, cpu/depthwise_conv2d.cpp and cpu/dense_conv2d.cpp.
//
//     output[n] = bias[n] + input[n] (*) effective[n],   effective[n, o] = gate[n, o] * sum_k code[n, k] *
//     weight[k, o]
//
// A code per sample may have an entry for each place of the kernel, which weighs the copies there.
#include "ops/fused_conv2d.h"

#include "ops/chained_dense.h"
#include "ops/conv_arguments.h"
#include "ops/dense_conv2d.h"
#include "ops/depthwise_conv2d.h"
#include "ops/depthwise_mixture.h"
#include "ops/per_sample_conv2d.h"
#include "ops/place_codes.h"
#include "ops/registration.h"

namespace kshot {
namespace {

// [N, C] of a vector [C].
Tensor repeated(const Tensor& vector, int64_t times) {
  const Sizes sizes{times, vector.size(0)};
  Tensor rows = empty_strided(sizes, contiguous_strides(sizes), vector.scalar_type(), vector);
  torch::stable::copy_(rows, vector);
  return rows;
}

// A code [K] or [N, K]: the given one, or its part for one place.
Tensor code_of_a_place(const Tensor& code, const Tensor& weight) {
  if (!has_places(code)) return code;
  STD_TORCH_CHECK(weight.dim() == 5 && weight.size(3) >= 1 && weight.size(4) >= 1 &&
                      code.size(2) == weight.size(3) && code.size(3) == weight.size(4),
                  "a code by place must be [N, K, KH, KW] with the weight's KH and KW");
  return torch::stable::select(torch::stable::select(code, 3, 0), 2, 0);
}

// The checked geometry of a call.
ConvGeometry geometry_of(const Tensor& input, const Tensor& weight, const Tensor& code,
                         const std::optional<Tensor>& gate, const std::optional<Tensor>& bias,
                         int64_t out_channels, bool depthwise, const std::vector<int64_t>& stride,
                         const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  constexpr auto kFloat32 = torch::headeronly::ScalarType::Float;
  check_operands(input, weight, code_of_a_place(code, weight), gate, bias, out_channels, depthwise);
  STD_TORCH_CHECK(depthwise || (input.scalar_type() == kFloat32 && weight.scalar_type() == kFloat32),
                  "dense convolutions of the CPU take float32");
  return conv_geometry(input, out_channels, {weight.size(3), weight.size(4)}, stride, padding, dilation);
}

// The bias as the kernels take it: in the input's dtype, and dense with a code per sample one for each
// sample.
std::optional<Tensor> bias_for(const std::optional<Tensor>& bias, const Tensor& input, bool per_sample) {
  if (!bias) return std::nullopt;
  const Tensor result = as_contiguous(in_dtype(*bias, input.scalar_type()));
  return bias->dim() == 1 && per_sample ? repeated(result, input.size(0)) : result;
}

Tensor fused_conv2d(const Tensor& input,                // [N, C_in', H, W]
                    const Tensor& weight,               // [K, C_out, C_in/groups, KH, KW]
                    const Tensor& code,                 // [K], [N, K] or [N, K, KH, KW]
                    const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
                    const std::optional<Tensor>& bias,  // [C_out'] or [N, C_out'], mixed and gated
                    int64_t out_channels, std::vector<int64_t> stride, std::vector<int64_t> padding,
                    std::vector<int64_t> dilation, bool depthwise, bool /*allow_tf32*/) {
  const ConvGeometry geometry =
      geometry_of(input, weight, code, gate, bias, out_channels, depthwise, stride, padding, dilation);
  const Tensor x = with_even_pixels(input);
  const std::optional<Tensor> addend = bias_for(bias, x, code.dim() > 1 && !depthwise);
  if (depthwise) {
    const DepthwiseMixture mixture(weight, code, gate, out_channels);
    return depthwise_forward(x, mixture.by_tap(x.scalar_type()), addend, geometry);
  }
  const Dictionary dictionary(weight);
  if (code.dim() > 1) {
    return per_sample_forward(x, dictionary, codes_by_place(code), addend, geometry);
  }
  const Mixing mixing(dictionary, code, gate, out_channels, geometry.in_channels);
  const Tensor effective = dense_effective(mixing);
  return dense_forward(x, effective, addend, geometry);
}

FusedGradients fused_conv2d_backward(const Tensor& grad,                 // [N, C_out', H', W']
                                     const Tensor& input,                // [N, C_in', H, W]
                                     const Tensor& weight,               // [K, C_out, C_in/groups, KH, KW]
                                     const Tensor& code,                 // [K], [N, K] or [N, K, KH, KW]
                                     const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
                                     std::vector<int64_t> stride, std::vector<int64_t> padding,
                                     std::vector<int64_t> dilation, bool depthwise, bool /*allow_tf32*/,
                                     bool need_input, bool need_effective, bool need_weight, bool need_code,
                                     bool need_gate) {
  const ConvGeometry geometry = geometry_of(input, weight, code, gate, std::nullopt,
                                            channels_of_gradient(grad), depthwise, stride, padding, dilation);
  check_gradient(grad, input, geometry);
  const Tensor x = with_even_pixels(input), g = with_even_pixels(grad);
  const Needs needs{need_input, need_effective, need_weight, need_code, need_gate};
  if (depthwise) {
    const DepthwiseMixture mixture(weight, code, gate, geometry.out_channels);
    return mixture.gradients(
        depthwise_backward(g, x, mixture.by_tap(x.scalar_type()), geometry, need_input, needs.parameters()),
        needs);
  }
  const Dictionary dictionary(weight);
  if (code.dim() > 1) {
    const PerSampleGradients grads =
        per_sample_backward(g, x, dictionary, codes_by_place(code), geometry, need_input, needs.parameters());
    const Tensor grad_code = needs.parameters() ? codes_by_sample(grads.code, code) : grads.code;
    return {grads.input, none_like(x), grads.dictionary, grad_code, none_like(x)};
  }
  const Mixing mixing(dictionary, code, gate, geometry.out_channels, geometry.in_channels);
  const Tensor effective = dense_effective(mixing);
  const ConvGradients grads = dense_backward(g, x, effective, geometry, need_input, needs.parameters());
  if (!needs.parameters()) return no_gradients_of_mixing(mixing, grads.input);
  return gradients_of_mixing(mixing, grads.input, grads.weight, needs);
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("fused_conv2d", TORCH_BOX(&kshot::fused_conv2d));
  m.impl("fused_conv2d_backward", TORCH_BOX(&kshot::fused_conv2d_backward));
}
