// Effective weight, forward and backward: arguments of the kernels; see effective_weight.cpp.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/mix_geometry.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// Pointers to the sum type (float, or double for double) are void here, and typed in the kernels.
struct EffectiveWeight {
  MixGeometry geometry;
  DType dtype;
  const void* weight;   // [K, C_out, ...], strides in geometry
  const void* code;     // [N, K] of the sum type
  const void* gate;     // [N, rows] or [rows] of the sum type, or null
  int64_t gate_stride;  // elements from sample to sample: rows, or 0 for a shared gate
  void* output;         // [N, rows, ...] packed
};

struct EffectiveWeightBackward {
  EffectiveWeight forward;  // output unused
  const void* grad;         // dL/d(effective weight), packed as the forward's output
  void* grad_weight;        // like weight, the inactive part already zero; or null
  void* row_dots;           // [N, rows, K] of the sum type: <grad row, weight row>; or null
  bool past_caches;         // whether grad_weight is too large for the caches
};

struct EffectiveWeightReduce {
  const EffectiveWeightBackward* backward;
  void* grad_code;  // [N, K] of the sum type, added to; or null
  void* grad_gate;  // like gate, added to; or null
};

// Rows [begin, end) of the effective weight.
KSHOT_DECLARE(void effective_weight(const EffectiveWeight& args, int64_t begin, int64_t end))

// Rows [begin, end): writes grad_weight and row_dots in one pass over the dictionary.
KSHOT_DECLARE(void effective_weight_backward(const EffectiveWeightBackward& args, int64_t begin, int64_t end))

// Sums row_dots, in an order that no thread count changes: grad_code over rows, grad_gate over copies.
KSHOT_DECLARE(void effective_weight_reduce(const EffectiveWeightReduce& args))

}  // namespace kshot::cpu
