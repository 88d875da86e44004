// Operator chained_conv2d and its backward on CUDA: links of a chain of convolutions, norms and activations.
// Kernels: cuda/depthwise_chain* and cuda/dense_chain*. Calls that they do not serve come as sequences of
// layers (kshot_ext/ops/chained_conv2d.py).
#include <tuple>

#include "cuda/dense_chain.h"
#include "cuda/depthwise_chain.h"
#include "ops/fused_conv2d.h"
#include "ops/registration.h"
#include "ops_cuda/chain_operands.h"
#include "ops_cuda/conv_problem.h"

namespace kshot {
namespace {

// Input, weight and window of a call; the input in channels_last.
struct LinkOperands {
  const Tensor& input;
  const Tensor& weight;
  const Tensor& code;
  const std::optional<Tensor>& gate;
  int64_t out_channels;
  const WindowArguments& window;
  const ChainNormOperand& norm;
  bool allow_tf32;

  Tensor new_image(int64_t channels, const ConvAxis& height, const ConvAxis& width, bool of_input) const {
    return new_channels_last(input, channels, of_input ? height.input : height.output,
                             of_input ? width.input : width.output);
  }
  ConvGeometry geometry() const {
    return conv_geometry(input, out_channels, {weight.size(3), weight.size(4)}, window.stride, window.padding,
                         window.dilation);
  }
  Mixing mixing(int64_t in_channels) const {
    return Mixing(Dictionary(weight), code, gate, out_channels, in_channels);
  }
};

// The mixed weight of a dense link, made once for all blocks.
class DenseWeight {
 public:
  DenseWeight(const Mixing& mixing, const LinkOperands& operands, const ConvGeometry& geometry)
      : weight_(mixed(mixing, operands)) {
    STD_TORCH_CHECK(cuda::chained_dense_serves(operands.norm.args(), geometry),
                    "a dense link with a stride takes no norm per sample");
  }
  cuda::DenseDictionary args() const {
    const int64_t in_channels = weight_.size(1), row = product(sizes_of(weight_), 1);
    return {weight_.data_ptr(), row * weight_.size(0), row, in_channels, 1, nullptr, 0};
  }

 private:
  static Tensor mixed(const Mixing& mixing, const LinkOperands& operands) {
    STD_TORCH_CHECK(!mixing.per_sample(), "a dense link of a chain takes one code for the batch");
    Tensor effective = mixing.new_effective();
    run_forward({mixing.forward_into(effective)}, effective);
    const Tensor typed = in_dtype(effective, operands.input.scalar_type());
    return laid_out_as(typed, channels_last_strides(sizes_of(typed)));
  }

  Tensor weight_;
};

ConvProblem depthwise_problem(const LinkOperands& operands) {
  const ConvProblem problem(operands.input, operands.weight, operands.code, operands.gate,
                            operands.out_channels, operands.window, true);
  STD_TORCH_CHECK(
      cuda::chained_depthwise_serves(problem.dtype(), problem.geometry()),
      "depthwise links of CUDA take kernels of 3x3, 5x5 and 7x7 with strides of 1 or 2, the latter "
      "without dilation");
  return problem;
}

Tensor depthwise_forward(const LinkOperands& operands, float* mean, float* variance) {
  const ConvProblem problem = depthwise_problem(operands);
  const ConvGeometry& geometry = problem.geometry();
  Tensor output = operands.new_image(geometry.out_channels, geometry.height, geometry.width, false);
  cuda::ChainedDepthwise args{problem.dtype(),
                              geometry,
                              problem.depthwise_weight(),
                              operands.input.data_ptr(),
                              operands.norm.args(),
                              output.data_ptr(),
                              mean,
                              variance,
                              nullptr};
  const Tensor workspace = scratch(cuda::chained_depthwise_workspace(args), output);
  args.workspace = workspace.data_ptr();
  const Launch launch(output);
  cuda::chained_depthwise(args, launch.stream());
  return output;
}

Tensor dense_forward(const LinkOperands& operands, float* mean, float* variance) {
  const ConvGeometry geometry = operands.geometry();
  const DenseWeight weight(operands.mixing(geometry.in_channels), operands, geometry);
  Tensor output = operands.new_image(geometry.out_channels, geometry.height, geometry.width, false);
  cuda::ChainedDense args{
      dtype_of(output),     operands.allow_tf32, geometry, weight.args(), operands.input.data_ptr(),
      operands.norm.args(), output.data_ptr(),   mean,     variance,      nullptr};
  const Tensor workspace = scratch(cuda::chained_dense_workspace(args), output);
  args.workspace = workspace.data_ptr();
  const Launch launch(output);
  cuda::chained_dense(args, launch.stream());
  return output;
}

// Gradients of the effective weight, as float, and the norm's sums [S, 2, C_in'].
struct LinkGradients {
  Tensor weight, norm_sums;
};

LinkGradients depthwise_backward(const LinkOperands& operands, const ChainGradientOperand& gradient,
                                 void* grad_input) {
  const ConvProblem problem = depthwise_problem(operands);
  const ConvGeometry& geometry = problem.geometry();
  Sizes sizes{geometry.out_channels, 1, geometry.height.kernel, geometry.width.kernel};
  if (problem.per_sample()) sizes.insert(sizes.begin(), geometry.batch);
  const LinkGradients result{new_floats(sizes, operands.input), operands.norm.new_sums()};
  cuda::ChainedDepthwiseBackward args{problem.dtype(),
                                      geometry,
                                      problem.depthwise_weight(),
                                      operands.input.data_ptr(),
                                      operands.norm.args(),
                                      gradient.args(),
                                      grad_input,
                                      problem.per_sample(),
                                      floats_of(result.weight),
                                      floats_of(result.norm_sums),
                                      nullptr};
  const Tensor workspace = scratch(cuda::chained_depthwise_backward_workspace(args), operands.input);
  args.workspace = workspace.data_ptr();
  const Launch launch(operands.input);
  cuda::chained_depthwise_backward(args, launch.stream());
  return result;
}

LinkGradients dense_backward(const LinkOperands& operands, const ChainGradientOperand& gradient,
                             void* grad_input, bool need_weight) {
  const ConvGeometry geometry = operands.geometry();
  const DenseWeight weight(operands.mixing(geometry.in_channels), operands, geometry);
  const Sizes sizes{geometry.out_channels, geometry.in_channels, geometry.height.kernel,
                    geometry.width.kernel};
  const LinkGradients result{need_weight
                                 ? empty_strided(sizes, channels_last_strides(sizes), kFloat, operands.input)
                                 : none_like(operands.input),
                             operands.norm.new_sums()};
  cuda::ChainedDenseBackward args{dtype_of(operands.input),
                                  operands.allow_tf32,
                                  geometry,
                                  weight.args(),
                                  operands.input.data_ptr(),
                                  operands.norm.args(),
                                  gradient.args(),
                                  grad_input,
                                  floats_of(result.norm_sums),
                                  need_weight ? floats_of(result.weight) : nullptr,
                                  nullptr};
  const Tensor workspace = scratch(cuda::chained_dense_backward_workspace(args), operands.input);
  args.workspace = workspace.data_ptr();
  const Launch launch(operands.input);
  cuda::chained_dense_backward(args, launch.stream());
  return result;
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
    std::vector<int64_t> dilation, bool depthwise, bool moments, bool allow_tf32) {
  check_operands(input, weight, code, gate, std::nullopt, out_channels, depthwise);
  const Tensor x = as_channels_last(input);
  const ChainNormOperand norm(x, mean, variance, norm_weight, norm_bias, eps, activation);
  const WindowArguments window{stride, padding, dilation};
  const LinkOperands operands{x, weight, code, gate, out_channels, window, norm, allow_tf32};
  const int64_t count = moments ? out_channels : 0;
  const Tensor out_mean = new_floats({count}, input), out_variance = new_floats({count}, input);
  float *to_mean = moments ? floats_of(out_mean) : nullptr,
        *to_variance = moments ? floats_of(out_variance) : nullptr;
  const Tensor output = depthwise ? depthwise_forward(operands, to_mean, to_variance)
                                  : dense_forward(operands, to_mean, to_variance);
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
    bool need_input, bool need_effective, bool need_weight, bool need_code, bool need_gate, bool allow_tf32) {
  check_operands(input, weight, code, gate, std::nullopt, channels_of_gradient(grad), depthwise);
  const Tensor x = as_channels_last(input);
  const ChainNormOperand norm(x, mean, variance, norm_weight, norm_bias, eps, activation);
  const WindowArguments window{stride, padding, dilation};
  const LinkOperands operands{x, weight, code, gate, grad.size(1), window, norm, allow_tf32};
  const ConvGeometry geometry = operands.geometry();
  check_gradient(grad, input, geometry);
  const ChainGradientOperand gradient(as_channels_last(grad), grad_mean, grad_variance, output, out_mean);
  const Needs needs{need_input, need_effective, need_weight, need_code, need_gate};

  const Tensor grad_input =
      need_input ? operands.new_image(geometry.in_channels, geometry.height, geometry.width, true)
                 : none_like(input);
  void* to_input = need_input ? grad_input.data_ptr() : nullptr;
  const LinkGradients own = depthwise ? depthwise_backward(operands, gradient, to_input)
                                      : dense_backward(operands, gradient, to_input, needs.parameters());
  const Launch launch(x);
  const std::vector<Tensor> of_norm =
      need_input && norm.exists() ? norm.gradients(own.norm_sums, launch) : norm.no_gradients();
  const Mixing mixing = operands.mixing(depthwise ? 1 : geometry.in_channels);
  const FusedGradients mixed = needs.parameters() ? gradients_of_mixing(mixing, grad_input, own.weight, needs)
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
