// Operator batch_norm_act and its backward, on every backend: checks, and mixing of weight and bias.
//
// Both are small, so the backward pass mixes them again rather than have autograd keep them.
#include <array>
#include <tuple>

#include "ops/mixing.h"
#include "ops/norm_pass.h"
#include "ops/registration.h"

namespace kshot {
namespace {

// Weight and bias of a call, mixed where they are dictionaries: [K, C], which rank two means under a code.
class Affine {
 public:
  Affine(const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
         const std::optional<Tensor>& code, const Tensor& input)
      : parameters_{weight, bias}, mixed_{weight, bias} {
    if (!code) return;
    std::vector<EffectiveWeight> kernels;
    for (size_t i = 0; i < 2; ++i) {
      if (!parameters_[i] || parameters_[i]->dim() != 2) continue;
      const Tensor& dictionary = *parameters_[i];
      STD_TORCH_CHECK(
          dictionary.device() == input.device() && sum_type_of(input) == dictionary.scalar_type(),
          "dictionaries of weight and bias must be on the input's device, in the dtype of its sums");
      mixings_[i].emplace(Dictionary(dictionary), *code, std::nullopt, input.size(1), 1);
      mixed_[i] = mixings_[i]->new_effective();
      kernels.push_back(mixings_[i]->forward_into(*mixed_[i]));
    }
    if (!kernels.empty()) run_forward(kernels, input);
  }

  const std::optional<Tensor>& mixed_weight() const { return mixed_[0]; }
  const std::optional<Tensor>& mixed_bias() const { return mixed_[1]; }

  // Of a parameter with the gradient of what it was mixed to, [C] or [N, C]: a gradient of its own shape, or
  // in `compact` form that of what it was mixed to; and what it adds to the code's, in `mixings`.
  Tensor gradient(size_t i, Tensor grad, bool need, bool compact, bool need_code,
                  std::vector<MixingGradients>& mixings) const {
    if (!parameters_[i] || !(need || (need_code && mixings_[i]))) return none_like(grad);
    if (mixed_[i]->dim() < grad.dim()) {
      const std::array<int64_t, 1> samples{0};
      grad = torch::stable::sum(grad, samples);
    }
    if (!mixings_[i]) return in_dtype(grad, parameters_[i]->scalar_type());
    if (need_code || !compact) {
      mixings.emplace_back(*mixings_[i], grad, need && !compact, need_code, false);
      if (!compact) return mixings.back().grad_weight;
    }
    return need ? grad : none_like(grad);
  }

 private:
  std::array<std::optional<Tensor>, 2> parameters_, mixed_;
  std::array<std::optional<Mixing>, 2> mixings_;
};

// Without `mean` and `variance`, those of the batch are used and returned; else empty tensors are.
std::tuple<Tensor, Tensor, Tensor> batch_norm_act(
    const Tensor& input,                    // [N, C, H, W]
    const std::optional<Tensor>& weight,    // [C], [N, C] or, with a code, [K, C] of which C or more channels
    const std::optional<Tensor>& bias,      // likewise
    const std::optional<Tensor>& code,      // [K] or [N, K]
    const std::optional<Tensor>& residual,  // [N, C, H, W]
    const std::optional<Tensor>& mean,      // [C]
    const std::optional<Tensor>& variance,  // [C]
    double eps, int64_t activation) {
  check_norm_operands(input, residual, mean, variance, activation);
  const Affine affine(weight, bias, code, input);
  const NormOutput result = run_norm(
      {input, affine.mixed_weight(), affine.mixed_bias(), residual, eps, activation}, mean, variance);
  return {result.output, result.mean, result.variance};
}

// Gradients of input, weight, bias, code and residual; those not asked for are empty. That of a `compact`
// dictionary is the gradient of what it was mixed to.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_norm_act_backward(
    const Tensor& grad, const Tensor& input, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& code,
    const std::optional<Tensor>& residual, const Tensor& mean, const Tensor& variance, double eps,
    int64_t activation, bool training, bool need_weight, bool compact_weight, bool need_bias,
    bool compact_bias, bool need_code, bool need_residual) {
  check_norm_operands(input, residual, mean, variance, activation);
  check_like_input("the output's gradient", grad, input);
  const Affine affine(weight, bias, code, input);
  const NormGradients gradients =
      run_norm_backward(grad, {input, affine.mixed_weight(), affine.mixed_bias(), residual, eps, activation},
                        mean, variance, training, need_residual);
  std::vector<MixingGradients> mixings;
  mixings.reserve(2);
  const Tensor grad_weight =
      affine.gradient(0, gradients.weight, need_weight, compact_weight, need_code, mixings);
  const Tensor grad_bias = affine.gradient(1, gradients.bias, need_bias, compact_bias, need_code, mixings);
  std::vector<MixingGradients*> pointers;
  for (MixingGradients& each : mixings) {
    if (need_code) each.grad_code = mixings[0].grad_code;  // one sum over both
    pointers.push_back(&each);
  }
  if (!pointers.empty()) run_backward(pointers);
  const Tensor grad_code = mixings.empty() ? none_like(gradients.weight) : mixings[0].grad_code;
  return {gradients.input, grad_weight, grad_bias, grad_code, gradients.residual};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("batch_norm_act", TORCH_BOX(&kshot::batch_norm_act));
  m.impl("batch_norm_act_backward", TORCH_BOX(&kshot::batch_norm_act_backward));
}
