// Operator fused_conv2d and its backward on CUDA: a convolution that mixes its weight inside the kernel,
// dense or depthwise. Kernels: cuda/dense_* and cuda/depthwise_*.
//
//     output[n] = bias[n] + input[n] (*) effective[n],   effective[n, o] = gate[n, o] * sum_k code[n, k] *
//     weight[k, o]
//
// Gradients of weight, code and gate follow from that of the effective weight. Only where it would be one
// dense weight per sample are they made tile by tile.
#include <tuple>

#include "ops/fused_conv2d.h"
#include "ops/registration.h"
#include "ops_cuda/conv_problem.h"
#include "ops_cuda/launch.h"

namespace kshot {
namespace {

Tensor fused_conv2d(const Tensor& input,                // [N, C_in', H, W]
                    const Tensor& weight,               // [K, C_out, C_in/groups, KH, KW]
                    const Tensor& code,                 // [K] or [N, K]
                    const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
                    const std::optional<Tensor>& bias,  // [C_out'] or [N, C_out'], mixed and gated
                    int64_t out_channels, std::vector<int64_t> stride, std::vector<int64_t> padding,
                    std::vector<int64_t> dilation, bool depthwise, bool allow_tf32) {
  check_cuda_operands(input, weight, code, gate, bias, out_channels, depthwise);
  const ConvProblem problem(input, weight, code, gate, out_channels, {stride, padding, dilation}, depthwise);
  const ConvGeometry& geometry = problem.geometry();
  Tensor output = problem.new_image(out_channels, geometry.height.output, geometry.width.output);
  std::optional<Tensor> addend;
  if (bias) addend = as_contiguous(in_dtype(*bias, code.scalar_type()));
  const int64_t bias_stride = addend && addend->dim() == 2 ? out_channels : 0;
  const Launch launch(input);
  if (depthwise) {
    cuda::depthwise_conv2d({problem.dtype(), problem.layout(), geometry, problem.depthwise_weight(),
                            problem.pixels(problem.input()), addend ? addend->data_ptr() : nullptr,
                            bias_stride, output.data_ptr()},
                           launch.stream());
  } else {
    const float* addends = addend ? static_cast<const float*>(addend->data_ptr()) : nullptr;
    cuda::dense_forward({problem.dtype(),
                         allow_tf32,
                         geometry,
                         problem.dense_dictionary(),
                         problem.pixels(problem.input()),
                         problem.dense_gate(),
                         {addends, bias_stride},
                         output.data_ptr()},
                        launch.stream());
  }
  return output;
}

Tensor input_gradient(const ConvProblem& problem, const Tensor& grad, bool depthwise, bool allow_tf32,
                      const Launch& launch) {
  const ConvGeometry& geometry = problem.geometry();
  Tensor result = problem.new_image(geometry.in_channels, geometry.height.input, geometry.width.input);
  if (depthwise) {
    cuda::depthwise_input_gradient({problem.dtype(), problem.layout(), geometry, problem.depthwise_weight(),
                                    problem.pixels(grad), result.data_ptr()},
                                   launch.stream());
  } else {
    cuda::dense_input_gradient({problem.dtype(), allow_tf32, geometry, problem.dense_dictionary(),
                                problem.pixels(grad), problem.dense_gate(), result.data_ptr()},
                               launch.stream());
  }
  return result;
}

// Gradient of the effective weight, [C_out', C_in', KH, KW] or, depthwise per sample, [N, C, 1, KH, KW], of
// the sum type.
Tensor effective_gradient(const ConvProblem& problem, const Tensor& grad, bool depthwise, bool allow_tf32,
                          const Launch& launch) {
  const ConvGeometry& geometry = problem.geometry();
  const auto dtype = sum_type_of(problem.input());
  if (!depthwise) {
    const Sizes sizes{geometry.out_channels, geometry.in_channels, geometry.height.kernel,
                      geometry.width.kernel};
    Tensor result = empty_strided(sizes, channels_last_strides(sizes), dtype, grad);
    cuda::DenseWeightGradient args{problem.dtype(),
                                   allow_tf32,
                                   geometry,
                                   problem.pixels(grad),
                                   problem.pixels(problem.input()),
                                   static_cast<float*>(result.data_ptr()),
                                   nullptr};
    Tensor workspace = scratch(cuda::dense_weight_gradient_workspace(args), grad);
    args.workspace = workspace.data_ptr();
    cuda::dense_weight_gradient(args, launch.stream());
    return result;
  }
  Sizes sizes{geometry.out_channels, 1, geometry.height.kernel, geometry.width.kernel};
  if (problem.per_sample()) sizes.insert(sizes.begin(), geometry.batch);
  Tensor result = empty_strided(sizes, contiguous_strides(sizes), dtype, grad);
  cuda::DepthwiseWeightGradient args{};
  args.dtype = problem.dtype();
  args.layout = problem.layout();
  args.geometry = geometry;
  args.per_sample = problem.per_sample();
  args.input = problem.pixels(problem.input());
  args.grad_output = problem.pixels(grad);
  args.grad_weight = result.data_ptr();
  args.sample_stride = geometry.out_channels * geometry.taps();
  args.channel_stride = geometry.taps();
  args.tap_stride = 1;
  Tensor workspace = scratch(cuda::depthwise_weight_gradient_workspace(args), grad);
  args.workspace = workspace.data_ptr();
  cuda::depthwise_weight_gradient(args, launch.stream());
  return result;
}

// Gradients of the dictionary, in its dtype, and of the codes [N, K].
std::tuple<Tensor, Tensor> per_sample_gradients(const ConvProblem& problem, const Tensor& dictionary,
                                                const Tensor& grad, bool allow_tf32, const Launch& launch) {
  const Tensor& weight = problem.weight();  // the dictionary or a copy of its active part
  const auto sums = torch::headeronly::ScalarType::Float;
  Tensor grad_weight = empty_strided(sizes_of(weight), strides_of(weight), sums, grad);
  Tensor grad_code = empty_strided(sizes_of(problem.code()), strides_of(problem.code()), sums, grad);
  const ConvGeometry& geometry = problem.geometry();
  const bool whole = geometry.out_channels == weight.size(1) && geometry.in_channels == weight.size(2);
  if (!whole) torch::stable::zero_(grad_weight);
  cuda::DensePerSampleGradient args{problem.dtype(),
                                    allow_tf32,
                                    geometry,
                                    problem.dense_dictionary(),
                                    problem.pixels(grad),
                                    problem.pixels(problem.input()),
                                    problem.dense_gate(),
                                    static_cast<float*>(grad_weight.data_ptr()),
                                    static_cast<float*>(grad_code.data_ptr()),
                                    nullptr};
  Tensor workspace = scratch(cuda::dense_per_sample_gradient_workspace(args), grad);
  args.workspace = workspace.data_ptr();
  cuda::dense_per_sample_gradient(args, launch.stream());
  if (sizes_of(weight) == sizes_of(dictionary)) {
    return {in_dtype(grad_weight, dictionary.scalar_type()), grad_code};
  }
  const Sizes sizes = sizes_of(dictionary);
  Tensor of_all = empty_strided(sizes, contiguous_strides(sizes), dictionary.scalar_type(), grad);
  torch::stable::zero_(of_all);
  Tensor active = leading(of_all, weight.size(1), weight.size(2));
  torch::stable::copy_(active, grad_weight);
  return {of_all, grad_code};
}

FusedGradients fused_conv2d_backward(const Tensor& grad,                 // [N, C_out', H', W']
                                     const Tensor& input,                // [N, C_in', H, W]
                                     const Tensor& weight,               // [K, C_out, C_in/groups, KH, KW]
                                     const Tensor& code,                 // [K] or [N, K]
                                     const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
                                     std::vector<int64_t> stride, std::vector<int64_t> padding,
                                     std::vector<int64_t> dilation, bool depthwise, bool allow_tf32,
                                     bool need_input, bool need_effective, bool need_weight, bool need_code,
                                     bool need_gate) {
  check_cuda_operands(input, weight, code, gate, std::nullopt, channels_of_gradient(grad), depthwise);
  const ConvProblem problem(input, weight, code, gate, grad.size(1), {stride, padding, dilation}, depthwise);
  check_gradient(grad, input, problem.geometry());
  const Needs needs{need_input, need_effective, need_weight, need_code, need_gate};
  const Tensor g = problem.as_source(grad);
  const auto none = [&] {
    return none_like(input);
  };  // a tensor of its own each time: results share no memory
  const Launch launch(input);
  const Tensor grad_input = need_input ? input_gradient(problem, g, depthwise, allow_tf32, launch) : none();
  FusedGradients result{grad_input, none(), none(), none(), none()};
  if (needs.parameters() && problem.per_sample() && !depthwise) {
    std::tie(std::get<2>(result), std::get<3>(result)) =
        per_sample_gradients(problem, weight, g, allow_tf32, launch);
  } else if (needs.parameters()) {
    const Tensor effective = effective_gradient(problem, g, depthwise, allow_tf32, launch);
    const Mixing mixing(Dictionary(weight), code, gate, grad.size(1), depthwise ? 1 : input.size(1));
    result = gradients_of_mixing(mixing, grad_input, effective, needs);
  }
  return result;
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("fused_conv2d", TORCH_BOX(&kshot::fused_conv2d));
  m.impl("fused_conv2d_backward", TORCH_BOX(&kshot::fused_conv2d_backward));
}
