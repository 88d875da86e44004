// Effective weight, forward and backward: arguments of the kernels; see effective_weight.cpp.
#pragma once

#include <cstdint>

#include "common/effective_weight.h"
#include "cpu/isa.h"

namespace kshot::cpu {

struct EffectiveWeightBackward {
  EffectiveWeight forward;  // output unused
  const void* grad;         // dL/d(effective weight), packed as the forward's output
  void* grad_weight;        // like weight, the inactive part already zero; or null
  void* row_dots;           // [N, rows, K] of the sum type: <grad row, weight row>; or null
  bool past_caches;         // whether grad_weight is too large for the caches
};

struct EffectiveWeightReduce {
  const EffectiveWeightBackward* backward;
  void* grad_code;  // like code, added to; or null
  void* grad_gate;  // like gate, added to; or null
};

// Rows [begin, end) of the effective weight.
KSHOT_DECLARE(void effective_weight(const EffectiveWeight& args, int64_t begin, int64_t end))

// Rows [begin, end): writes grad_weight and row_dots in one pass over the dictionary.
KSHOT_DECLARE(void effective_weight_backward(const EffectiveWeightBackward& args, int64_t begin, int64_t end))

// Sums row_dots, in an order that no thread count changes: grad_code over rows, grad_gate over copies.
KSHOT_DECLARE(void effective_weight_reduce(const EffectiveWeightReduce& args))

}  // namespace kshot::cpu
