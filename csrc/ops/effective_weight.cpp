// Operator effective_weight and its backward, on every backend. Kernels: cpu/ and cuda/effective_weight.
#include <tuple>

#include "ops/mixing.h"
#include "ops/registration.h"

namespace kshot {
namespace {

Tensor effective_weight(const Tensor& weight,               // [K, C_out, C_in, *kernel]
                        const Tensor& code,                 // [K] or [N, K]
                        const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
                        int64_t out_channels, int64_t in_channels) {
  const Dictionary dictionary(weight);
  Mixing mixing(dictionary, code, gate, out_channels, in_channels);
  Tensor output = mixing.new_effective();
  run_forward({mixing.forward_into(output)}, weight);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> effective_weight_backward(
    const Tensor& grad,                 // [C_out', C_in', *kernel] or [N, ...]
    const Tensor& weight,               // [K, C_out, C_in, *kernel]
    const Tensor& code,                 // [K] or [N, K]
    const std::optional<Tensor>& gate,  // [C_out'] or [N, C_out']
    bool need_weight, bool need_code, bool need_gate) {
  const Dictionary dictionary(weight);
  const int64_t channel_dim = code.dim() - 1;
  STD_TORCH_CHECK(
      0 <= channel_dim && channel_dim <= 1 && grad.dim() == weight.dim() - 1 + channel_dim,
      "code must be [K] or [N, K], and the gradient have the shape of the effective weight; got ranks ",
      code.dim(), " and ", grad.dim());
  const int64_t in_channels = weight.dim() > 2 ? grad.size(channel_dim + 1) : 1;
  Mixing mixing(dictionary, code, gate, grad.size(channel_dim), in_channels);
  MixingGradients gradients(mixing, grad, need_weight, need_code, need_gate);
  run_backward({&gradients});
  return {gradients.grad_weight, gradients.grad_code, gradients.grad_gate};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("effective_weight", TORCH_BOX(&kshot::effective_weight));
  m.impl("effective_weight_backward", TORCH_BOX(&kshot::effective_weight_backward));
}
