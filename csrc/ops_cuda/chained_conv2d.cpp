// Operator chained_conv2d and its backward on CUDA: depthwise links of a chain of convolutions, norms and
// activations. Kernels: cuda/depthwise_chain*. Calls that they do not serve come as sequences of layers
// (kshot_ext/ops/chained_conv2d.py).
#include <tuple>

#include "cuda/depthwise_chain.h"
#include "ops/fused_conv2d.h"
#include "ops/registration.h"
#include "ops_cuda/chain_operands.h"
#include "ops_cuda/conv_problem.h"

namespace kshot {
namespace {

void check_served(const Tensor& input, const ConvGeometry& geometry, bool depthwise) {
  STD_TORCH_CHECK(
      depthwise && cuda::chained_depthwise_serves(dtype_of(input), geometry),
      "links of CUDA take depthwise kernels of 3x3, 5x5 and 7x7 with strides of 1 or 2, the latter "
      "without dilation");
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
    std::vector<int64_t> dilation, bool depthwise, bool moments) {
  check_cuda_operands(input, weight, code, gate, std::nullopt, out_channels, depthwise);
  const ConvProblem problem(as_channels_last(input), weight, code, gate, out_channels,
                            {stride, padding, dilation}, depthwise);
  const ConvGeometry& geometry = problem.geometry();
  check_served(input, geometry, depthwise);
  const ChainNormOperand norm(problem.input(), mean, variance, norm_weight, norm_bias, eps, activation);
  Tensor output = problem.new_image(out_channels, geometry.height.output, geometry.width.output);
  const int64_t count = moments ? out_channels : 0;
  Tensor out_mean = new_floats({count}, input), out_variance = new_floats({count}, input);
  cuda::ChainedDepthwise args{problem.dtype(),
                              geometry,
                              problem.depthwise_weight(),
                              problem.input().data_ptr(),
                              norm.args(),
                              output.data_ptr(),
                              moments ? floats_of(out_mean) : nullptr,
                              moments ? floats_of(out_variance) : nullptr,
                              nullptr};
  const Tensor workspace = scratch(cuda::chained_depthwise_workspace(args), input);
  args.workspace = workspace.data_ptr();
  const Launch launch(input);
  cuda::chained_depthwise(args, launch.stream());
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
    bool need_input, bool need_effective, bool need_weight, bool need_code, bool need_gate) {
  check_cuda_operands(input, weight, code, gate, std::nullopt, channels_of_gradient(grad), depthwise);
  const ConvProblem problem(as_channels_last(input), weight, code, gate, grad.size(1),
                            {stride, padding, dilation}, depthwise);
  const ConvGeometry& geometry = problem.geometry();
  check_served(input, geometry, depthwise);
  check_gradient(grad, input, geometry);
  const ChainNormOperand norm(problem.input(), mean, variance, norm_weight, norm_bias, eps, activation);
  const ChainGradientOperand gradient(as_channels_last(grad), grad_mean, grad_variance, output, out_mean);
  const Needs needs{need_input, need_effective, need_weight, need_code, need_gate};

  Tensor grad_input =
      need_input ? problem.new_image(geometry.in_channels, geometry.height.input, geometry.width.input)
                 : none_like(input);
  Sizes sizes{geometry.out_channels, 1, geometry.height.kernel, geometry.width.kernel};
  if (problem.per_sample()) sizes.insert(sizes.begin(), geometry.batch);
  const Tensor effective = new_floats(sizes, input), sums = norm.new_sums();
  cuda::ChainedDepthwiseBackward args{problem.dtype(),
                                      geometry,
                                      problem.depthwise_weight(),
                                      problem.input().data_ptr(),
                                      norm.args(),
                                      gradient.args(),
                                      need_input ? grad_input.data_ptr() : nullptr,
                                      problem.per_sample(),
                                      floats_of(effective),
                                      floats_of(sums),
                                      nullptr};
  const Tensor workspace = scratch(cuda::chained_depthwise_backward_workspace(args), input);
  args.workspace = workspace.data_ptr();
  const Launch launch(input);
  cuda::chained_depthwise_backward(args, launch.stream());
  const std::vector<Tensor> of_norm =
      need_input && norm.exists() ? norm.gradients(sums, launch) : norm.no_gradients();
  const Mixing mixing(Dictionary(weight), code, gate, geometry.out_channels, 1);
  const FusedGradients mixed = needs.parameters() ? gradients_of_mixing(mixing, grad_input, effective, needs)
                                                  : no_gradients_of_mixing(mixing, grad_input);
  return {grad_input,         of_norm[0],         of_norm[1],         of_norm[2],        of_norm[3],
          std::get<1>(mixed), std::get<2>(mixed), std::get<3>(mixed), std::get<4>(mixed)};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("chained_conv2d", TORCH_BOX(&kshot::chained_conv2d));
  m.impl("chained_conv2d_backward", TORCH_BOX(&kshot::chained_conv2d_backward));
}
