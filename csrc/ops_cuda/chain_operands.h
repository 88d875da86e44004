// What the links of a chain share on CUDA: a norm as the kernels take it, and its gradients.
#pragma once

#include "cuda/chain.h"
#include "ops/conv_arguments.h"
#include "ops/norm_parameter.h"
#include "ops_cuda/launch.h"

namespace kshot {

constexpr auto kFloat = torch::headeronly::ScalarType::Float;

inline Tensor new_floats(const Sizes& sizes, const Tensor& like) {
  return empty_strided(sizes, contiguous_strides(sizes), kFloat, like);
}
inline float* floats_of(const Tensor& tensor) {
  return static_cast<float*>(tensor.data_ptr());
}

// [C] of floats, or none.
class ChannelValues {
 public:
  ChannelValues(const char* name, const std::optional<Tensor>& tensor, int64_t channels, const Tensor& like) {
    if (!tensor) return;
    STD_TORCH_CHECK(tensor->device() == like.device() && sizes_of(*tensor) == Sizes{channels}, name,
                    " must be [C] with C = ", channels, ", on the input's device");
    values_ = as_contiguous(in_dtype(*tensor, kFloat));
  }
  const float* data() const { return values_ ? floats_of(*values_) : nullptr; }

 private:
  std::optional<Tensor> values_;
};

// The norm on an input [N, C, H, W], checked, with the tensors behind the kernels' pointers. Without mean and
// variance there is none.
class ChainNormOperand {
 public:
  ChainNormOperand(const Tensor& input, const std::optional<Tensor>& mean,
                   const std::optional<Tensor>& variance, const std::optional<Tensor>& weight,
                   const std::optional<Tensor>& bias, double eps, int64_t activation)
      : input_(input),
        mean_("mean", mean, input.size(1), input),
        variance_("variance", variance, input.size(1), input),
        weight_(weight, input),
        bias_(bias, input) {
    check_norm_operands(input, std::nullopt, mean, variance, activation);
    STD_TORCH_CHECK(dtype_of(input) != DType::kFloat64,
                    "chains take float32, bfloat16 or float16; the reference takes float64");
    STD_TORCH_CHECK(mean || !(weight || bias), "a norm's weight and bias come with mean and variance");
    args_ = {static_cast<Activation>(activation),
             static_cast<float>(eps),
             mean_.data(),
             variance_.data(),
             static_cast<const float*>(weight_.data()),
             static_cast<const float*>(bias_.data()),
             weight_.stride(),
             bias_.stride()};
  }
  ChainNormOperand(const ChainNormOperand&) = delete;

  const cuda::ChainNorm& args() const { return args_; }
  bool exists() const { return args_.mean != nullptr; }
  bool per_sample() const { return weight_.stride() || bias_.stride(); }
  // Those with sums of their own.
  int64_t samples() const { return per_sample() ? input_.size(0) : 1; }
  Tensor new_sums() const { return new_floats({samples(), 2, input_.size(1)}, input_); }

  // Gradients of mean, variance, weight and bias from sums [samples, 2, C].
  std::vector<Tensor> gradients(const Tensor& sums, const Launch& launch) const {
    const int64_t channels = input_.size(1);
    std::vector<Tensor> result{new_floats({channels}, input_), new_floats({channels}, input_),
                               new_floats({samples(), channels}, input_),
                               new_floats({samples(), channels}, input_)};
    cuda::chain_norm_gradient({channels, samples(), args_, floats_of(sums), floats_of(result[0]),
                               floats_of(result[1]), floats_of(result[2]), floats_of(result[3])},
                              launch.stream());
    return result;
  }
  std::vector<Tensor> no_gradients() const {
    return {none_like(input_), none_like(input_), none_like(input_), none_like(input_)};
  }

 private:
  Tensor input_;
  ChannelValues mean_, variance_;
  NormParameter weight_, bias_;
  cuda::ChainNorm args_{};
};

// The gradient of a raw output by all its uses, from those of the output and of its moments, [C] each.
class ChainGradientOperand {
 public:
  // `grad`: in channels_last.
  ChainGradientOperand(const Tensor& grad, const std::optional<Tensor>& grad_mean,
                       const std::optional<Tensor>& grad_variance, const Tensor& output, const Tensor& mean)
      : grad_(grad),
        output_(as_channels_last(output)),
        mean_("the mean of the raw output", grad_mean || grad_variance ? std::optional(mean) : std::nullopt,
              grad.size(1), grad),
        grad_mean_("the gradient of the mean", grad_mean, grad.size(1), grad),
        grad_variance_("the gradient of the variance", grad_variance, grad.size(1), grad) {
    args_.grad = grad_.data_ptr();
    if (!grad_mean && !grad_variance) return;
    check_like_input("the raw output", output, grad);
    const int64_t positions = grad.size(0) * grad.size(2) * grad.size(3);
    args_.output = output_.data_ptr();
    args_.mean = mean_.data();
    args_.grad_mean = grad_mean_.data();
    args_.grad_variance = grad_variance_.data();
    args_.per_position = positions > 0 ? 1.0f / static_cast<float>(positions) : 0.0f;
  }
  ChainGradientOperand(const ChainGradientOperand&) = delete;

  const cuda::ChainGradient& args() const { return args_; }

 private:
  Tensor grad_, output_;
  ChannelValues mean_, grad_mean_, grad_variance_;
  cuda::ChainGradient args_{};
};

}  // namespace kshot
