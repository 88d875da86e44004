// Operator adamw_update: one step of AdamW on many dictionaries, in place, on every backend. Kernels: cpu/
// and cuda/adamw_update.
#include "ops/dictionary_update.h"
#include "ops/registration.h"
#include "ops/update_passes.h"

namespace kshot {
namespace {

void adamw_update(std::vector<Tensor> weights,  // each [K, C_out, ...] or a plain parameter, updated
                  std::vector<Tensor> exp_avgs, std::vector<Tensor> exp_avg_sqs,  // like the weights, updated
                  std::vector<Tensor> max_exp_avg_sqs,                            // likewise; or none at all
                  std::vector<double> steps,  // that each weight takes: 1 is its first
                  std::vector<std::optional<Tensor>> grads, std::vector<int64_t> use_counts,
                  std::vector<Tensor> use_codes, std::vector<std::optional<Tensor>> use_gates,
                  std::vector<Tensor> use_grads, double lr, double beta1, double beta2, double eps,
                  double weight_decay, bool maximize) {
  STD_TORCH_CHECK(exp_avgs.size() == weights.size() && exp_avg_sqs.size() == weights.size() &&
                      steps.size() == weights.size(),
                  "every weight needs an exp_avg, an exp_avg_sq and a step");
  for (const double step : steps) STD_TORCH_CHECK(step >= 1, "a step must be 1 or later, got ", step);
  const auto complete = [&](size_t i, const std::vector<void*>& states, AdamwUpdate& update) {
    update.exp_avg = states[0];
    update.exp_avg_sq = states[1];
    update.max_exp_avg_sq = states[2];
    update.beta1 = beta1;
    update.beta2 = beta2;
    update.eps = eps;
    update.set_step(steps[i], lr, weight_decay);
  };
  update_dictionaries<AdamwUpdate>(
      weights, {{"exp_avg", exp_avgs}, {"exp_avg_sq", exp_avg_sqs}, {"max_exp_avg_sq", max_exp_avg_sqs}},
      {grads, use_counts, use_codes, use_gates, use_grads}, maximize, complete, run_adamw_update);
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("adamw_update", TORCH_BOX(&kshot::adamw_update));
}
