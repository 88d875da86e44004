// AdamW on many weight dictionaries. With g as in dictionary_update.cuh, in step t:
//
//     m = beta1 * m + (1 - beta1) * g
//     v = beta2 * v + (1 - beta2) * g^2
//     w = (1 - lr * weight_decay) * w - lr / (1 - beta1^t) * m / (sqrt(u / (1 - beta2^t)) + eps)
//
// where u is v, or with amsgrad the largest v so far.
#pragma once

#include "cuda/adamw_update.h"
#include "cuda/dictionary_update.cuh"

namespace kshot::cuda {
namespace {

struct AdamwJob : UpdateJob {
  static constexpr int kStates = 3;

  void* states[kStates];  // exp_avg, exp_avg_sq, and max_exp_avg_sq or null
  double beta1, beta2, eps, kept, step_size, spread;

  AdamwJob() = default;
  explicit AdamwJob(const AdamwUpdate& update)
      : UpdateJob{},
        states{update.exp_avg, update.exp_avg_sq, update.max_exp_avg_sq},
        beta1(update.beta1),
        beta2(update.beta2),
        eps(update.eps),
        kept(update.kept),
        step_size(update.step_size),
        spread(update.spread) {}

  template <class C>
  __device__ __forceinline__ void apply(C& w, C g, C (&values)[kStates]) const {
    C &m = values[0], &v = values[1], &largest = values[2];
    m = static_cast<C>(beta1) * m + static_cast<C>(1 - beta1) * g;
    v = static_cast<C>(beta2) * v + static_cast<C>(1 - beta2) * (g * g);
    C u = v;
    if (states[2]) {
      if (!(largest >= v) && largest == largest) largest = v;  // a NaN on either side stays
      u = largest;
    }
    w = static_cast<C>(kept) * w -
        static_cast<C>(step_size) * m / (sqrt(u) * static_cast<C>(spread) + static_cast<C>(eps));
  }
};

template <class T>
__global__ void __launch_bounds__(kUpdateThreads, sizeof(T) == 2 ? 2 : 3)
    adamw_kernel(const UpdateJobs<AdamwJob> jobs) {
  update_block<T>(jobs);
}

}  // namespace
}  // namespace kshot::cuda
