// Operator sgd_update: one step of SGD on many dictionaries, in place, on every backend. Kernels: cpu/ and
// cuda/sgd_update.
#include "ops/dictionary_update.h"
#include "ops/registration.h"
#include "ops/update_passes.h"

namespace kshot {
namespace {

void sgd_update(std::vector<Tensor> weights,           // each [K, C_out, ...] or a plain parameter, updated
                std::vector<Tensor> momentum_buffers,  // like the weights, updated; or none at all
                std::vector<std::optional<Tensor>> grads, std::vector<int64_t> use_counts,
                std::vector<Tensor> use_codes, std::vector<std::optional<Tensor>> use_gates,
                std::vector<Tensor> use_grads, double lr, double momentum, double dampening,
                double weight_decay, bool nesterov, bool maximize) {
  const auto complete = [&](size_t, const std::vector<void*>& states, SgdUpdate& update) {
    STD_TORCH_CHECK(momentum == 0 || states[0],
                    "a momentum other than 0 needs a momentum_buffer for every weight, got momentum ",
                    momentum, " and none");
    update.momentum_buffer = states[0];
    update.lr = lr;
    update.momentum = momentum;
    update.dampening = dampening;
    update.weight_decay = weight_decay;
    update.nesterov = nesterov;
  };
  update_dictionaries<SgdUpdate>(weights, {{"momentum_buffer", momentum_buffers}},
                                 {grads, use_counts, use_codes, use_gates, use_grads}, maximize, complete,
                                 run_sgd_update);
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("sgd_update", TORCH_BOX(&kshot::sgd_update));
}
