// Operators chained_conv2d and chained_norm_act and their backwards on the CPU: links of a chain of
// convolutions, norms and activations, and its end. Equations: cpu/chained_rows.h.
#include <tuple>

#include "ops/chained_dense.h"
#include "ops/chained_depthwise.h"
#include "ops/dense_panels.h"
#include "ops/depthwise_mixture.h"
#include "ops/registration.h"
#include "ops/sum_of_parts.h"

namespace kshot {
namespace {

constexpr auto kFloat = torch::headeronly::ScalarType::Float;

ConvGeometry chain_geometry(const Tensor& input, const Tensor& weight, const Tensor& code,
                            const std::optional<Tensor>& gate, int64_t out_channels, bool depthwise,
                            const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                            const std::vector<int64_t>& dilation) {
  check_operands(input, weight, code, gate, std::nullopt, out_channels, depthwise);
  STD_TORCH_CHECK(depthwise || code.dim() == 1, "a dense link of a chain takes one code for the batch");
  return conv_geometry(input, out_channels, {weight.size(3), weight.size(4)}, stride, padding, dilation);
}

// Returns the raw output and its mean and variance; without `moments` the latter are empty.
std::tuple<Tensor, Tensor, Tensor> chained_conv2d(
    const Tensor& input,                       // [N, C_in', H, W]
    const std::optional<Tensor>& mean,         // [C_in'], of the norm on the input, or none
    const std::optional<Tensor>& variance,     // [C_in']
    const std::optional<Tensor>& norm_weight,  // [C_in'] or [N, C_in']
    const std::optional<Tensor>& norm_bias,    // [C_in'] or [N, C_in']
    double eps, int64_t activation,
    const Tensor& weight,               // [K, C_out, C_in/groups, KH, KW]
    const Tensor& code,                 // [K], depthwise also [N, K]
    const std::optional<Tensor>& gate,  // [C_out']
    int64_t out_channels, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, bool depthwise, bool moments, bool /* allow_tf32: of CUDA */) {
  const ConvGeometry geometry =
      chain_geometry(input, weight, code, gate, out_channels, depthwise, stride, padding, dilation);
  const ChainOperand operand(input, mean, variance, norm_weight, norm_bias, eps, activation);
  Tensor output = new_channels_last(input, out_channels, geometry.height.output, geometry.width.output);
  const int64_t count = moments ? out_channels : 0;
  Tensor out_mean = new_floats({count}, input), out_variance = new_floats({count}, input);
  float *to_mean = moments ? floats_of(out_mean) : nullptr,
        *to_variance = moments ? floats_of(out_variance) : nullptr;
  if (depthwise) {
    const DepthwiseMixture mixture(weight, code, gate, out_channels);
    chained_depthwise_forward(operand, mixture.by_tap(kFloat), geometry, output, to_mean, to_variance);
  } else {
    const Mixing mixing(Dictionary(weight), code, gate, out_channels, geometry.in_channels);
    chained_dense_forward(operand, dense_effective(mixing), geometry, output, to_mean, to_variance);
  }
  return {output, out_mean, out_variance};
}

// Gradients of input, the norm's mean, variance, weight and bias, then of effective weight, dictionary, code
// and gate; those not asked for are empty. Those of the norm's weight and bias are [1, C] or [N, C].
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> chained_conv2d_backward(
    const Tensor& grad,                          // [N, C_out', H', W'], of the raw output
    const std::optional<Tensor>& grad_mean,      // [C_out'], of its mean
    const std::optional<Tensor>& grad_variance,  // [C_out'], and its variance
    const Tensor& input, const std::optional<Tensor>& mean, const std::optional<Tensor>& variance,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias, double eps,
    int64_t activation, const Tensor& weight, const Tensor& code, const std::optional<Tensor>& gate,
    const Tensor& output,    // [N, C_out', H', W']
    const Tensor& out_mean,  // [C_out'], or empty
    std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation, bool depthwise,
    bool need_input, bool need_effective, bool need_weight, bool need_code, bool need_gate,
    bool /* allow_tf32: of CUDA */) {
  const ConvGeometry geometry = chain_geometry(input, weight, code, gate, channels_of_gradient(grad),
                                               depthwise, stride, padding, dilation);
  check_gradient(grad, input, geometry);
  const ChainOperand operand(input, mean, variance, norm_weight, norm_bias, eps, activation);
  const ChainOutputGradient gradient(grad, grad_mean, grad_variance, output, out_mean);
  const Needs needs{need_input, need_effective, need_weight, need_code, need_gate};
  Tensor grad_input = none_like(input);
  if (need_input) {
    grad_input = new_channels_last(input, geometry.in_channels, geometry.height.input, geometry.width.input);
  }
  const auto all = [&](const ChainedGradients& own, const auto& gradients_of) {
    const bool summed = need_input && operand.has_norm();
    const std::vector<Tensor> norm = summed ? operand.gradients(own.sums) : operand.no_gradients();
    const FusedGradients mixed = gradients_of(own);
    return std::make_tuple(grad_input, norm[0], norm[1], norm[2], norm[3], std::get<1>(mixed),
                           std::get<2>(mixed), std::get<3>(mixed), std::get<4>(mixed));
  };
  if (depthwise) {
    const DepthwiseMixture mixture(weight, code, gate, geometry.out_channels);
    const Tensor by_tap = mixture.by_tap(kFloat);
    return all(
        chained_depthwise_backward(operand, gradient, by_tap, geometry, grad_input),
        [&](const ChainedGradients& own) { return mixture.gradients({grad_input, own.weight}, needs); });
  }
  const Mixing mixing(Dictionary(weight), code, gate, geometry.out_channels, geometry.in_channels);
  return all(chained_dense_backward(operand, gradient, dense_effective(mixing), geometry, grad_input,
                                    needs.parameters()),
             [&](const ChainedGradients& own) {
               return needs.parameters() ? gradients_of_mixing(mixing, grad_input, own.weight, needs)
                                         : no_gradients_of_mixing(mixing, grad_input);
             });
}

// Cuts the positions of a tensor into pieces, within one sample where the norm's parameters are per sample,
// and runs body(piece, sample, begin, end) on all threads.
template <class Body>
int64_t chain_pieces(const ChainOperand& operand, const Body& body) {
  constexpr int64_t kElements = 1 << 16, kMost = 64;
  const int64_t samples = operand.per_sample() ? operand.samples() : 1;
  const int64_t positions = operand.samples() * operand.pixels() / std::max<int64_t>(samples, 1);
  const int64_t pieces = std::clamp<int64_t>(positions * operand.channels() / kElements, 1, kMost);
  parallel_tasks(operand.samples() > 0 ? samples * pieces : 0, [&](int64_t index) {
    const int64_t sample = index / pieces, piece = index % pieces, first = sample * positions;
    body(piece, sample, first + piece * positions / pieces, first + (piece + 1) * positions / pieces);
  });
  return pieces;
}

Tensor chained_norm_act(const Tensor& input, const Tensor& mean, const Tensor& variance,
                        const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
                        const std::optional<Tensor>& residual, double eps, int64_t activation) {
  if (residual) check_like_input("residual", *residual, input);
  const ChainOperand operand(input, mean, variance, norm_weight, norm_bias, eps, activation);
  Tensor output = new_channels_last(input, input.size(1), input.size(2), input.size(3));
  const std::optional<Tensor> addend = residual ? std::optional(as_channels_last(*residual)) : std::nullopt;
  cpu::ChainEnd args{};
  args.input = operand.args();
  args.residual = addend ? addend->data_ptr() : nullptr;
  args.output = chain_result(output);
  chain_pieces(operand, [&](int64_t, int64_t sample, int64_t begin, int64_t end) {
    KSHOT_CALL(chain_end, args, sample, begin, end);
  });
  return output;
}

// Gradients of input, mean, variance, weight and bias of the norm, and residual (empty if not asked for).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> chained_norm_act_backward(
    const Tensor& grad, const Tensor& input, const Tensor& mean, const Tensor& variance,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
    const std::optional<Tensor>& residual, double eps, int64_t activation, bool need_residual) {
  check_like_input("the output's gradient", grad, input);
  if (residual) check_like_input("residual", *residual, input);
  const ChainOperand operand(input, mean, variance, norm_weight, norm_bias, eps, activation);
  const Tensor grad_output = as_channels_last(grad);
  const std::optional<Tensor> addend = residual ? std::optional(as_channels_last(*residual)) : std::nullopt;
  const auto like_input = [&] {
    return new_channels_last(input, input.size(1), input.size(2), input.size(3));
  };
  Tensor grad_input = like_input(), grad_residual = need_residual ? like_input() : none_like(input);
  cpu::ChainEnd args{};
  args.input = operand.args();
  args.residual = addend ? addend->data_ptr() : nullptr;
  args.grad = grad_output.data_ptr();
  args.grad_input = chain_result(grad_input);
  if (need_residual) args.grad_residual = chain_result(grad_residual);
  // A piece of a sample adds to sums of its own: [pieces, S, 2, C].
  const int64_t samples = operand.per_sample() ? operand.samples() : 1, channels = operand.channels();
  const int64_t pieces = chain_pieces(operand, [](int64_t, int64_t, int64_t, int64_t) {});
  Tensor parts = new_floats({pieces, samples, 2, channels}, input);
  torch::stable::zero_(parts);
  chain_pieces(operand, [&](int64_t piece, int64_t sample, int64_t begin, int64_t end) {
    float* sums = floats_of(parts) + (piece * samples + sample) * 2 * channels;
    KSHOT_CALL(chain_end_backward, args, sample, begin, end, sums);
  });
  const std::vector<Tensor> norm = operand.gradients(sum_of_parts(parts, 0));
  return {grad_input, norm[0], norm[1], norm[2], norm[3], grad_residual};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("chained_conv2d", TORCH_BOX(&kshot::chained_conv2d));
  m.impl("chained_conv2d_backward", TORCH_BOX(&kshot::chained_conv2d_backward));
  m.impl("chained_norm_act", TORCH_BOX(&kshot::chained_norm_act));
  m.impl("chained_norm_act_backward", TORCH_BOX(&kshot::chained_norm_act_backward));
}
