// The passes of batch_norm_act on CUDA: allocation, launches. Kernels: cuda/batch_norm_*.
#include "ops/norm_pass.h"

#include "cuda/batch_norm_act.h"
#include "ops/conv_arguments.h"
#include "ops_cuda/launch.h"

namespace kshot {
namespace {

// The operands in the form of the kernels, with the tensors behind the raw pointers.
class NormProblem {
 public:
  explicit NormProblem(const NormOperands& operands)
      : input_(with_even_pixels(operands.input)),
        sum_type_(sum_type_of(input_)),
        weight_(operands.weight, input_),
        bias_(operands.bias, input_) {
    args_.dtype = dtype_of(input_);
    args_.activation = static_cast<Activation>(operands.activation);
    args_.channels = input_.size(1);
    args_.eps = operands.eps;
    args_.input = pixels_of(input_);
    if (operands.residual) residual_ = with_even_pixels(*operands.residual);
    args_.residual = residual_ ? pixels_of(*residual_) : Pixels<void>{nullptr, 0};
    args_.weight = weight_.data();
    args_.weight_stride = weight_.stride();
    args_.bias = bias_.data();
    args_.bias_stride = bias_.stride();
    const bool per_sample = operands.per_sample();
    args_.samples = per_sample ? input_.size(0) : 1;
    args_.positions_per_sample = per_sample ? input_.size(2) * input_.size(3) : positions();
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

// Mean and variance of the batch, both [C].
void batch_statistics(const NormProblem& problem, const Launch& launch, Tensor& mean, Tensor& variance) {
  cuda::BatchNormMoments moments{};
  moments.dtype = problem.args().dtype;
  moments.channels = problem.args().channels;
  moments.positions = problem.positions();
  moments.input = problem.args().input;
  moments.mean = mean.data_ptr();
  moments.variance = variance.data_ptr();
  Tensor workspace = scratch(cuda::batch_norm_moments_workspace(moments), problem.input());
  moments.workspace = workspace.data_ptr();
  cuda::batch_norm_moments(moments, launch.stream());
}

// One half of sums [samples, 2 C]: [samples, C], or [C] of one for all samples.
Tensor half_of(Tensor sums, int64_t half, int64_t channels, bool per_sample) {
  const Tensor rows = torch::stable::narrow(sums, 1, half * channels, channels);
  return per_sample ? rows : torch::stable::select(rows, 0, 0);
}

}  // namespace

NormOutput run_norm(const NormOperands& operands, const std::optional<Tensor>& mean,
                    const std::optional<Tensor>& variance) {
  NormProblem problem(operands);
  const Launch launch(problem.input());
  const int64_t statistics = mean ? 0 : problem.args().channels;
  NormOutput result{problem.new_like_input(), problem.new_sums({statistics}), problem.new_sums({statistics})};
  if (!mean) batch_statistics(problem, launch, result.mean, result.variance);
  problem.use_statistics(mean ? *mean : result.mean, mean ? *variance : result.variance);
  problem.write_to(result.output);
  cuda::batch_norm_act(problem.args(), launch.stream());
  return result;
}

NormGradients run_norm_backward(const Tensor& grad, const NormOperands& operands, const Tensor& mean,
                                const Tensor& variance, bool training, bool need_residual) {
  NormProblem problem(operands);
  problem.use_statistics(mean, variance);
  const int64_t channels = problem.args().channels;
  const Tensor grad_output = with_even_pixels(grad);
  Tensor sums = problem.new_sums({problem.args().samples, 2 * channels});
  Tensor means = problem.new_sums({2, channels});
  const bool per_sample = operands.per_sample();
  NormGradients result{problem.new_like_input(), none_like(sums), half_of(sums, 0, channels, per_sample),
                       need_residual ? problem.new_like_input() : none_like(grad)};

  cuda::BatchNormActBackward args{};
  args.forward = problem.args();
  args.grad_output = pixels_of(grad_output);
  args.sums = sums.data_ptr();
  args.mean_grads = training ? means.data_ptr() : nullptr;
  args.grad_input = result.input.data_ptr();
  args.grad_residual = need_residual ? result.residual.data_ptr() : nullptr;
  Tensor workspace = scratch(cuda::batch_norm_act_sums_workspace(args), problem.input());
  args.workspace = workspace.data_ptr();
  const Launch launch(problem.input());
  cuda::batch_norm_act_sums(args, launch.stream());
  cuda::batch_norm_act_backward(args, launch.stream());
  result.weight = torch::stable::clone(half_of(sums, 1, channels, per_sample));  // results share no memory
  return result;
}

}  // namespace kshot
