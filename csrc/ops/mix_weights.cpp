// Operator mix_weights and its backward: many dictionaries, one code, one pass, on every backend.
#include <tuple>

#include "ops/mixing.h"
#include "ops/registration.h"

namespace kshot {
namespace {

std::vector<Mixing> mixings_of(const std::vector<Tensor>& weights, const Tensor& code) {
  std::vector<Mixing> mixings;
  mixings.reserve(weights.size());
  for (const Tensor& weight : weights) {
    const Dictionary dictionary(weight);
    mixings.emplace_back(dictionary, code, std::nullopt, dictionary.out_channels(), dictionary.in_channels());
  }
  return mixings;
}

std::vector<Tensor> mix_weights(std::vector<Tensor> weights,  // each [K, C_out, ...]
                                const Tensor& code) {         // [K] or [N, K]
  const std::vector<Mixing> mixings = mixings_of(weights, code);
  std::vector<Tensor> outputs;
  std::vector<EffectiveWeight> kernels;
  for (const Mixing& mixing : mixings) {
    outputs.push_back(mixing.new_effective());
    kernels.push_back(mixing.forward_into(outputs.back()));
  }
  if (!weights.empty()) run_forward(kernels, weights[0]);
  return outputs;
}

std::tuple<std::vector<Tensor>, Tensor> mix_weights_backward(
    std::vector<Tensor> grads,    // each [C_out, ...]
    std::vector<Tensor> weights,  // each [K, C_out, ...]
    const Tensor& code,           // [K] or [N, K]
    std::vector<int64_t> need_weights, bool need_code) {
  STD_TORCH_CHECK(!weights.empty() && grads.size() == weights.size() && need_weights.size() == weights.size(),
                  "expected as many gradients and needs as weights, and at least one; got ", grads.size(),
                  ", ", need_weights.size(), " and ", weights.size());
  const std::vector<Mixing> mixings = mixings_of(weights, code);
  std::vector<MixingGradients> gradients;
  gradients.reserve(mixings.size());
  std::vector<MixingGradients*> pointers;
  for (size_t i = 0; i < mixings.size(); ++i) {
    gradients.emplace_back(mixings[i], grads[i], need_weights[i] != 0, need_code, false);
    if (need_code) gradients[i].grad_code = gradients[0].grad_code;  // one sum over all dictionaries
    pointers.push_back(&gradients[i]);
  }
  run_backward(pointers);
  std::vector<Tensor> grad_weights;
  for (const MixingGradients& gradient : gradients) grad_weights.push_back(gradient.grad_weight);
  return {grad_weights, gradients[0].grad_code};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("mix_weights", TORCH_BOX(&kshot::mix_weights));
  m.impl("mix_weights_backward", TORCH_BOX(&kshot::mix_weights_backward));
}
