// SGD with momentum on many weight dictionaries. With g as in dictionary_update.cuh:
//
//     g = g + weight_decay * w
//     v = momentum * v + (1 - dampening) * g
//     w = w - lr * (nesterov ? g + momentum * v : v)
//
// and w = w - lr * g without momentum.
#pragma once

#include "cuda/dictionary_update.cuh"
#include "cuda/sgd_update.h"

namespace kshot::cuda {
namespace {

struct SgdJob : UpdateJob {
  static constexpr int kStates = 1;

  void* states[kStates];  // the momentum buffer, or null
  double lr, momentum, undampened, weight_decay;
  bool nesterov;

  SgdJob() = default;
  explicit SgdJob(const SgdUpdate& update)
      : UpdateJob{},
        states{update.momentum_buffer},
        lr(update.lr),
        momentum(update.momentum),
        undampened(1 - update.dampening),
        weight_decay(update.weight_decay),
        nesterov(update.nesterov) {}

  template <class C>
  __device__ __forceinline__ void apply(C& w, C g, C (&values)[kStates]) const {
    g += static_cast<C>(weight_decay) * w;
    if (states[0]) {
      C& v = values[0];
      v = static_cast<C>(momentum) * v + static_cast<C>(undampened) * g;
      g = nesterov ? g + static_cast<C>(momentum) * v : v;
    }
    w -= static_cast<C>(lr) * g;
  }
};

template <class T>
__global__ void __launch_bounds__(kUpdateThreads, sizeof(T) == 2 ? 3 : 5)
    sgd_kernel(const UpdateJobs<SgdJob> jobs) {
  update_block<T>(jobs);
}

}  // namespace
}  // namespace kshot::cuda
