// Operator batch_norm_act and its backward on CUDA: checks, allocation, launches. Kernels: cuda/batch_norm_*.
#include "cuda/batch_norm_act.h"

#include <tuple>

#include "ops/conv_arguments.h"
#include "ops/norm_parameter.h"
#include "ops/registration.h"
#include "ops_cuda/launch.h"

namespace kshot {
namespace {

// The operands in the form of the kernels, with the tensors behind the raw pointers.
class NormProblem {
 public:
  NormProblem(const Tensor& input, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
              const std::optional<Tensor>& residual, double eps, int64_t activation)
      : input_(as_channels_last(input)),
        sum_type_(sum_type_of(input)),
        weight_(weight, input_),
        bias_(bias, input_) {
    args_.dtype = dtype_of(input_);
    args_.activation = static_cast<Activation>(activation);
    args_.channels = input.size(1);
    args_.eps = eps;
    args_.input = input_.data_ptr();
    if (residual) residual_ = laid_out_as(*residual, channels_last_strides(sizes_of(input)));
    args_.residual = residual_ ? residual_->data_ptr() : nullptr;
    args_.weight = weight_.data();
    args_.weight_stride = weight_.stride();
    args_.bias = bias_.data();
    args_.bias_stride = bias_.stride();
    const bool per_sample = args_.weight_stride || args_.bias_stride;
    args_.samples = per_sample ? input.size(0) : 1;
    args_.positions_per_sample = per_sample ? input.size(2) * input.size(3) : positions();
  }

  const cuda::BatchNormAct& args() const { return args_; }
  const Tensor& input() const { return input_; }
  int64_t positions() const { return input_.size(0) * input_.size(2) * input_.size(3); }

  Tensor new_sums(const Sizes& sizes) const {
    return empty_strided(sizes, contiguous_strides(sizes), sum_type_, input_);
  }
  Tensor new_like_input() const {
    return new_channels_last(input_, args_.channels, input_.size(2), input_.size(3));
  }

  void use_statistics(const Tensor& mean, const Tensor& variance) {
    mean_ = as_contiguous(in_dtype(mean, sum_type_));
    variance_ = as_contiguous(in_dtype(variance, sum_type_));
    args_.mean = mean_->data_ptr();
    args_.variance = variance_->data_ptr();
  }
  void write_to(Tensor& output) { args_.output = output.data_ptr(); }

 private:
  Tensor input_;
  torch::headeronly::ScalarType sum_type_;
  NormParameter weight_, bias_;
  std::optional<Tensor> residual_, mean_, variance_;
  cuda::BatchNormAct args_{};
};

std::tuple<Tensor, Tensor> batch_statistics(const NormProblem& problem, const Launch& launch) {
  const int64_t channels = problem.args().channels;
  Tensor mean = problem.new_sums({channels}), variance = problem.new_sums({channels});
  cuda::BatchNormMoments moments{};
  moments.dtype = problem.args().dtype;
  moments.channels = channels;
  moments.positions = problem.positions();
  moments.input = problem.args().input;
  moments.mean = mean.data_ptr();
  moments.variance = variance.data_ptr();
  Tensor workspace = scratch(cuda::batch_norm_moments_workspace(moments), problem.input());
  moments.workspace = workspace.data_ptr();
  cuda::batch_norm_moments(moments, launch.stream());
  return {mean, variance};
}

// Without `mean` and `variance`, those of the batch are used and returned; else empty tensors are.
std::tuple<Tensor, Tensor, Tensor> batch_norm_act(const Tensor& input,                    // [N, C, H, W]
                                                  const std::optional<Tensor>& weight,    // [C] or [N, C]
                                                  const std::optional<Tensor>& bias,      // [C] or [N, C]
                                                  const std::optional<Tensor>& residual,  // [N, C, H, W]
                                                  const std::optional<Tensor>& mean,      // [C]
                                                  const std::optional<Tensor>& variance,  // [C]
                                                  double eps, int64_t activation) {
  check_norm_operands(input, residual, mean, variance, activation);
  NormProblem problem(input, weight, bias, residual, eps, activation);
  const Launch launch(problem.input());
  Tensor used_mean = problem.new_sums({0}), used_variance = problem.new_sums({0});
  if (mean) {
    problem.use_statistics(*mean, *variance);
  } else {
    std::tie(used_mean, used_variance) = batch_statistics(problem, launch);
    problem.use_statistics(used_mean, used_variance);
  }
  Tensor output = problem.new_like_input();
  problem.write_to(output);
  cuda::batch_norm_act(problem.args(), launch.stream());
  return {output, used_mean, used_variance};
}

// Gradients of the input, of bias and weight [1 or N, 2 C], and of the residual.
std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward(
    const Tensor& grad, const Tensor& input, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& residual, const Tensor& mean,
    const Tensor& variance, double eps, int64_t activation, bool training, bool need_residual) {
  check_norm_operands(input, residual, mean, variance, activation);
  check_like_input("the output's gradient", grad, input);
  NormProblem problem(input, weight, bias, residual, eps, activation);
  problem.use_statistics(mean, variance);
  const int64_t channels = problem.args().channels;
  const Tensor grad_output = as_channels_last(grad);
  Tensor grad_input = problem.new_like_input();
  Tensor grad_residual = need_residual ? problem.new_like_input() : none_like(input);
  Tensor sums = problem.new_sums({problem.args().samples, 2 * channels});
  Tensor means = problem.new_sums({2, channels});

  cuda::BatchNormActBackward args{};
  args.forward = problem.args();
  args.grad_output = grad_output.data_ptr();
  args.sums = sums.data_ptr();
  args.mean_grads = training ? means.data_ptr() : nullptr;
  args.grad_input = grad_input.data_ptr();
  args.grad_residual = need_residual ? grad_residual.data_ptr() : nullptr;
  Tensor workspace = scratch(cuda::batch_norm_act_sums_workspace(args), problem.input());
  args.workspace = workspace.data_ptr();
  const Launch launch(problem.input());
  cuda::batch_norm_act_sums(args, launch.stream());
  cuda::batch_norm_act_backward(args, launch.stream());
  return {grad_input, sums, grad_residual};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("batch_norm_act", TORCH_BOX(&kshot::batch_norm_act));
  m.impl("batch_norm_act_backward", TORCH_BOX(&kshot::batch_norm_act_backward));
}
