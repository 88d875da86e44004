// Passes over one or many dictionaries on CUDA: all of them in one launch where its parameters hold them.
#include "ops/mixing.h"

#include "cuda/effective_weight.h"
#include "ops_cuda/launch.h"

namespace kshot {

void run_forward(const std::vector<EffectiveWeight>& mixings, const Tensor& weight) {
  if (mixings.empty()) return;
  const Launch launch(weight);
  cuda::effective_weight(mixings.data(), static_cast<int64_t>(mixings.size()), launch.stream());
}

void run_backward(const std::vector<MixingGradients*>& gradients) {
  std::vector<cuda::EffectiveWeightBackward> passes;
  for (const MixingGradients* gradient : gradients) {
    cuda::EffectiveWeightBackward pass{};
    pass.forward = gradient->mixing.kernel_arguments();
    pass.grad = gradient->grad.data_ptr();
    pass.grad_weight = gradient->need_weight ? gradient->grad_weight.data_ptr() : nullptr;
    pass.grad_code = gradient->need_code ? gradient->grad_code.data_ptr() : nullptr;
    pass.grad_gate = gradient->need_gate ? gradient->grad_gate.data_ptr() : nullptr;
    if (pass.grad_weight || pass.grad_code || pass.grad_gate) passes.push_back(pass);
  }
  if (passes.empty()) return;
  const int64_t count = static_cast<int64_t>(passes.size());
  const Tensor& like = gradients[0]->grad;
  Tensor workspace = scratch(cuda::effective_weight_backward_workspace(passes.data(), count), like);
  const Launch launch(like);
  cuda::effective_weight_backward(passes.data(), count, workspace.data_ptr(), launch.stream());
}

}  // namespace kshot
