// Operator chained_norm_act and its backward on CUDA: the end of a chain is a batch norm with fixed
// statistics. Kernels: cuda/batch_norm_act*.
#include "cuda/batch_norm_act.h"
#include "ops/conv_arguments.h"
#include "ops/registration.h"
#include "ops_cuda/chain_operands.h"

namespace kshot {
namespace {

cuda::BatchNormAct end_arguments(const Tensor& input, const ChainNormOperand& norm,
                                 const std::optional<Tensor>& residual, double eps) {
  const cuda::ChainNorm& values = norm.args();
  cuda::BatchNormAct args{};
  args.dtype = dtype_of(input);
  args.activation = values.activation;
  args.channels = input.size(1);
  const int64_t pixels = input.size(2) * input.size(3);
  args.samples = norm.samples();
  args.positions_per_sample = norm.per_sample() ? pixels : input.size(0) * pixels;
  args.eps = eps;
  args.input = pixels_of(input);
  args.residual = residual ? pixels_of(*residual) : Pixels<void>{nullptr, 0};
  args.mean = values.mean;
  args.variance = values.variance;
  args.weight = values.weight;
  args.weight_stride = values.weight_stride;
  args.bias = values.bias;
  args.bias_stride = values.bias_stride;
  return args;
}

std::optional<Tensor> checked_residual(const std::optional<Tensor>& residual, const Tensor& input) {
  if (!residual) return std::nullopt;
  check_like_input("residual", *residual, input);
  return as_channels_last(*residual);
}

Tensor new_like(const Tensor& input) {
  return new_channels_last(input, input.size(1), input.size(2), input.size(3));
}

Tensor chained_norm_act(const Tensor& input, const Tensor& mean, const Tensor& variance,
                        const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
                        const std::optional<Tensor>& residual, double eps, int64_t activation) {
  const Tensor x = as_channels_last(input);
  const ChainNormOperand norm(x, mean, variance, norm_weight, norm_bias, eps, activation);
  const std::optional<Tensor> addend = checked_residual(residual, input);
  Tensor output = new_like(x);
  cuda::BatchNormAct args = end_arguments(x, norm, addend, eps);
  args.output = output.data_ptr();
  const Launch launch(x);
  cuda::batch_norm_act(args, launch.stream());
  return output;
}

// Gradients of input, mean, variance, weight and bias of the norm, and residual (empty if not asked for).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> chained_norm_act_backward(
    const Tensor& grad, const Tensor& input, const Tensor& mean, const Tensor& variance,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
    const std::optional<Tensor>& residual, double eps, int64_t activation, bool need_residual) {
  check_like_input("the output's gradient", grad, input);
  const Tensor x = as_channels_last(input), grad_output = as_channels_last(grad);
  const ChainNormOperand norm(x, mean, variance, norm_weight, norm_bias, eps, activation);
  const std::optional<Tensor> addend = checked_residual(residual, input);
  Tensor grad_input = new_like(x), grad_residual = need_residual ? new_like(x) : none_like(x);
  const Tensor sums = norm.new_sums();
  cuda::BatchNormActBackward args{};
  args.forward = end_arguments(x, norm, addend, eps);
  args.grad_output = pixels_of(grad_output);
  args.sums = sums.data_ptr();
  args.grad_input = grad_input.data_ptr();
  args.grad_residual = need_residual ? grad_residual.data_ptr() : nullptr;
  const Tensor workspace = scratch(cuda::batch_norm_act_sums_workspace(args), x);
  args.workspace = workspace.data_ptr();
  const Launch launch(x);
  cuda::batch_norm_act_sums(args, launch.stream());  // and the gradients, for fixed statistics
  const std::vector<Tensor> of_norm = norm.gradients(sums, launch);
  return {grad_input, of_norm[0], of_norm[1], of_norm[2], of_norm[3], grad_residual};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("chained_norm_act", TORCH_BOX(&kshot::chained_norm_act));
  m.impl("chained_norm_act_backward", TORCH_BOX(&kshot::chained_norm_act_backward));
}
