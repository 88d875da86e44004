// Effective weights of many dictionaries, forward and backward: arguments and launch functions; see
// effective_weight.cuh and effective_weight_backward.cuh.
#pragma once

#include <cstdint>

#include "common/effective_weight.h"

namespace kshot::cuda {

struct EffectiveWeightBackward {
  EffectiveWeight forward;  // output unused
  const void* grad;         // dL/d(effective weight), packed as the forward's output
  void* grad_weight;        // like weight, the inactive part already zero; or null
  // [N, K] of the sum type, written; or null. Neighbours in the list that name the same memory, and agree in
  // dtype, N and K, are summed into it.
  void* grad_code;
  void* grad_gate;  // like gate, written; or null
};

// All mixings of the list, in as few launches as the kernel's parameters allow. One copy of a dictionary has
// fewer than 2^31 elements.
void effective_weight(const EffectiveWeight* mixings, int64_t count, void* stream);

// Bytes of scratch memory that effective_weight_backward needs, aligned to 16.
int64_t effective_weight_backward_workspace(const EffectiveWeightBackward* mixings, int64_t count);

void effective_weight_backward(const EffectiveWeightBackward* mixings, int64_t count, void* workspace,
                               void* stream);

}  // namespace kshot::cuda
