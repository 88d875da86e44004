// Operator mixed_conv2d and its backward on the CPU: mixing and convolution in one call. Kernels:
// cpu/effective_weight.cpp, cpu/depthwise_conv2d.cpp and cpu/dense_conv2d.cpp.
//
//     output[n] = bias[n] + input[n] (*) effective[n],   effective[n, o] = gate[n, o] * sum_k code[n, k] *
//     weight[k, o]
#include "ops/mixed_conv2d.h"

#include "ops/conv_arguments.h"
#include "ops/dense_conv2d.h"
#include "ops/depthwise_conv2d.h"
#include "ops/per_sample_conv2d.h"
#include "ops/registration.h"

namespace kshot {
namespace {

// A view of [..., a, b] as [..., b, a].
Tensor turned(const Tensor& tensor) {
  return torch::stable::transpose(tensor, tensor.dim() - 2, tensor.dim() - 1);
}

// The weight of a depthwise convolution as its kernels read it, [taps, C] or [N, taps, C]. Where it is mixed
// per sample, the copies are brought into this order before: that is less to turn than the samples' weights.
class DepthwiseMixture {
 public:
  DepthwiseMixture(const Tensor& weight, const Tensor& code, const std::optional<Tensor>& gate,
                   int64_t channels)
      : sizes_(sizes_of(weight)),
        turned_before_(code.dim() == 2 && !gate),
        mixing_(turned_before_
                    ? Mixing(Dictionary(turned_copies(weight, channels)), code, gate, taps(), channels)
                    : Mixing(Dictionary(weight), code, gate, channels, 1)) {}

  Tensor by_tap(torch::headeronly::ScalarType dtype) const {
    Tensor effective = mixing_.new_effective();
    run_forward({mixing_.forward_into(effective)}, effective);
    if (!turned_before_) {
      effective = turned(torch::stable::flatten(effective, effective.dim() - 3, effective.dim() - 1));
    }
    return torch::stable::contiguous(torch::stable::to(effective, dtype));
  }

  MixedGradients gradients(const ConvGradients& grads, const Needs& needs) const {
    if (!needs.parameters()) return no_gradients_of_mixing(mixing_, grads.input);
    if (turned_before_) {
      MixedGradients result = gradients_of_mixing(mixing_, grads.input, grads.weight, needs);
      if (needs.weight) std::get<2>(result) = turned_back(std::get<2>(result));
      return result;
    }
    const Tensor effective = torch::stable::contiguous(turned(grads.weight));
    return gradients_of_mixing(mixing_, grads.input,
                               torch::stable::view(effective, mixing_.effective_sizes()), needs);
  }

 private:
  int64_t taps() const { return sizes_[3] * sizes_[4]; }

  // The active part of the copies as [K, taps, C'].
  static Tensor turned_copies(const Tensor& weight, int64_t channels) {
    return turned(
        torch::stable::flatten(torch::stable::narrow(const_cast<Tensor&>(weight), 1, 0, channels), 2, 4));
  }
  // A gradient of that part as one of the whole dictionary.
  Tensor turned_back(const Tensor& part) const {
    const Tensor copies = turned(part);  // [K, C', taps]
    if (copies.size(1) == sizes_[1]) return torch::stable::reshape(copies, sizes_);
    const Sizes flat{sizes_[0], sizes_[1], taps()};
    Tensor whole = empty_strided(flat, contiguous_strides(flat), part.scalar_type(), part);
    torch::stable::zero_(whole);
    Tensor active = torch::stable::narrow(whole, 1, 0, copies.size(1));
    torch::stable::copy_(active, copies);
    return torch::stable::view(whole, sizes_);
  }

  Sizes sizes_;
  bool turned_before_;
  Mixing mixing_;
};

// [N, C] of a vector [C].
Tensor repeated(const Tensor& vector, int64_t times) {
  const Sizes sizes{times, vector.size(0)};
  Tensor rows = empty_strided(sizes, contiguous_strides(sizes), vector.scalar_type(), vector);
  torch::stable::copy_(rows, vector);
  return rows;
}

ConvGeometry geometry_of(const Tensor& input, const Tensor& weight, int64_t out_channels, bool depthwise,
                         const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                         const std::vector<int64_t>& dilation) {
  STD_TORCH_CHECK(weight.dim() == 5 && out_channels <= weight.size(1) &&
                      (depthwise ? weight.size(2) == 1 && out_channels == input.size(1)
                                 : input.size(1) <= weight.size(2)),
                  "weight must be a dictionary [K, C_out, C_in, KH, KW] that covers the active channels");
  return conv_geometry(input, out_channels, {weight.size(3), weight.size(4)}, stride, padding, dilation);
}

void check_code(const Tensor& code, const Tensor& input) {
  STD_TORCH_CHECK(code.dim() == 1 || (code.dim() == 2 && code.size(0) == input.size(0)),
                  "code must be [K] or [N, K] with N = ", input.size(0));
}

Tensor mixed_conv2d(const Tensor& input,                // [N, C_in', H, W]
                    const Tensor& weight,               // [K, C_out, C_in/groups, KH, KW]
                    const Tensor& code,                 // [K] or [N, K]
                    const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
                    const std::optional<Tensor>& bias,  // [C_out'] or [N, C_out'], mixed and gated
                    int64_t out_channels, std::vector<int64_t> stride, std::vector<int64_t> padding,
                    std::vector<int64_t> dilation, bool depthwise, bool /*allow_tf32*/) {
  const Tensor x = as_channels_last(input);
  const ConvGeometry geometry = geometry_of(x, weight, out_channels, depthwise, stride, padding, dilation);
  check_code(code, x);
  std::optional<Tensor> addend;
  if (bias) addend = torch::stable::contiguous(torch::stable::to(*bias, x.scalar_type()));
  if (addend && addend->dim() == 1 && code.dim() == 2 && !depthwise) addend = repeated(*addend, x.size(0));
  if (depthwise) {
    const DepthwiseMixture mixture(weight, code, gate, out_channels);
    return depthwise_forward(x, mixture.by_tap(x.scalar_type()), addend, geometry);
  }
  const Dictionary dictionary(weight);
  if (code.dim() == 2) {
    return per_sample_forward(x, dictionary, torch::stable::contiguous(code), addend, geometry);
  }
  const Mixing mixing(dictionary, code, gate, out_channels, geometry.in_channels);
  Tensor effective = mixing.new_effective();
  run_forward({mixing.forward_into(effective)}, effective);
  return dense_forward(x, effective, addend, geometry);
}

MixedGradients mixed_conv2d_backward(const Tensor& grad,                 // [N, C_out', H', W']
                                     const Tensor& input,                // [N, C_in', H, W]
                                     const Tensor& weight,               // [K, C_out, C_in/groups, KH, KW]
                                     const Tensor& code,                 // [K] or [N, K]
                                     const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
                                     std::vector<int64_t> stride, std::vector<int64_t> padding,
                                     std::vector<int64_t> dilation, bool depthwise, bool /*allow_tf32*/,
                                     bool need_input, bool need_effective, bool need_weight, bool need_code,
                                     bool need_gate) {
  const Tensor x = as_channels_last(input), g = as_channels_last(grad);
  const ConvGeometry geometry = geometry_of(x, weight, g.size(1), depthwise, stride, padding, dilation);
  const Needs needs{need_input, need_effective, need_weight, need_code, need_gate};
  if (depthwise) {
    const DepthwiseMixture mixture(weight, code, gate, geometry.out_channels);
    return mixture.gradients(
        depthwise_backward(g, x, mixture.by_tap(x.scalar_type()), geometry, need_input, needs.parameters()),
        needs);
  }
  const Dictionary dictionary(weight);
  if (code.dim() == 2) {
    const PerSampleGradients grads = per_sample_backward(g, x, dictionary, torch::stable::contiguous(code),
                                                         geometry, need_input, needs.parameters());
    return {grads.input, none_like(x), grads.dictionary, grads.code, none_like(x)};
  }
  const Mixing mixing(dictionary, code, gate, geometry.out_channels, geometry.in_channels);
  Tensor effective = mixing.new_effective();
  run_forward({mixing.forward_into(effective)}, effective);
  const ConvGradients grads = dense_backward(g, x, effective, geometry, need_input, needs.parameters());
  if (!needs.parameters()) return no_gradients_of_mixing(mixing, grads.input);
  return gradients_of_mixing(mixing, grads.input, grads.weight, needs);
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("mixed_conv2d", TORCH_BOX(&kshot::mixed_conv2d));
  m.impl("mixed_conv2d_backward", TORCH_BOX(&kshot::mixed_conv2d_backward));
}
