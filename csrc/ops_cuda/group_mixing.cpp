// Passes over a dictionary under a dynamic grouping on CUDA.
#include "ops/group_mixing.h"

#include "cuda/dynamic_group_weight.h"
#include "ops_cuda/launch.h"

namespace kshot {

void run_group_forward(const GroupMixing& mixing, const Tensor& output) {
  GroupWeight args = mixing.kernel_arguments();
  args.mixing.output = output.data_ptr();
  const Launch launch(output);
  cuda::dynamic_group_weight(args, launch.stream());
}

void run_group_backward(const GroupMixingGradients& gradients) {
  const auto address = [](const Tensor& tensor) { return tensor.numel() > 0 ? tensor.data_ptr() : nullptr; };
  cuda::DynamicGroupWeightBackward args{};
  args.forward = gradients.mixing.kernel_arguments();
  args.grad = gradients.grad.data_ptr();
  args.grad_weight = address(gradients.grad_weight);
  args.grad_code = address(gradients.grad_code);
  args.grad_gates = address(gradients.grad_gates);
  Tensor workspace = scratch(cuda::dynamic_group_weight_backward_workspace(args), gradients.grad);
  const Launch launch(gradients.grad);
  cuda::dynamic_group_weight_backward(args, workspace.data_ptr(), launch.stream());
}

}  // namespace kshot
