// Operator dynamic_group_weight and its backward, on every backend. Kernels: cpu/ and
// cuda/dynamic_group_weight.
#include <tuple>

#include "ops/group_mixing.h"
#include "ops/registration.h"

namespace kshot {
namespace {

Tensor dynamic_group_weight(const Tensor& weight,         // [K, C_out, C_in, *kernel]
                            const Tensor& code,           // [K] or [N, K]
                            const Tensor& group_gates) {  // [n]
  const GroupMixing mixing(weight, code, group_gates);
  Tensor output = mixing.mixing().new_effective();
  run_group_forward(mixing, output);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> dynamic_group_weight_backward(
    const Tensor& grad,         // [C_out, C_in, *kernel] or [N, ...]
    const Tensor& weight,       // [K, C_out, C_in, *kernel]
    const Tensor& code,         // [K] or [N, K]
    const Tensor& group_gates,  // [n]
    bool need_weight, bool need_code, bool need_gates) {
  const GroupMixing mixing(weight, code, group_gates);
  const GroupMixingGradients gradients(mixing, grad, need_weight, need_code, need_gates);
  run_group_backward(gradients);
  return {gradients.grad_weight, gradients.grad_code, gradients.grad_gates};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("dynamic_group_weight", TORCH_BOX(&kshot::dynamic_group_weight));
  m.impl("dynamic_group_weight_backward", TORCH_BOX(&kshot::dynamic_group_weight_backward));
}
