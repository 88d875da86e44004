// Arguments of one step of AdamW on a dictionary, alike on every backend.
#pragma once

#include <cmath>

#include "common/dictionary_update.h"

namespace kshot {

struct AdamwUpdate : DictionaryUpdate {
  void* exp_avg;         // like weight
  void* exp_avg_sq;      // like weight
  void* max_exp_avg_sq;  // like weight, or null
  double beta1, beta2, eps;
  // What follows is made by set_step.
  double kept = 1;       // 1 - lr * weight_decay: what decay leaves of the weight
  double step_size = 0;  // lr / (1 - beta1^t) in step t
  double spread = 1;     // 1 / sqrt(1 - beta2^t), the factor of the root of exp_avg_sq

  // The factors of step `t` >= 1, the first being 1.
  void set_step(double t, double lr, double weight_decay) {
    kept = 1 - lr * weight_decay;
    step_size = lr / (1 - std::pow(beta1, t));
    spread = 1 / std::sqrt(1 - std::pow(beta2, t));
  }
};

}  // namespace kshot
