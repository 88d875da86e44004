// Effective weights of many dictionaries, forward and backward: arguments and launch functions; see
// effective_weight.cuh and effective_weight_backward.cuh.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/mix_geometry.h"

namespace kshot::cuda {

// Pointers to the sum type (float, or double for double) are void here, and typed in the kernels. One copy of
// the dictionary has fewer than 2^31 elements.
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
  // [N, K] of the sum type, written; or null. Neighbours in the list that name the same memory, and agree in
  // dtype, N and K, are summed into it.
  void* grad_code;
  void* grad_gate;  // like gate, written; or null
};

// All mixings of the list, in as few launches as the kernel's parameters allow.
void effective_weight(const EffectiveWeight* mixings, int64_t count, void* stream);

// Bytes of scratch memory that effective_weight_backward needs, aligned to 16.
int64_t effective_weight_backward_workspace(const EffectiveWeightBackward* mixings, int64_t count);

void effective_weight_backward(const EffectiveWeightBackward* mixings, int64_t count, void* workspace,
                               void* stream);

}  // namespace kshot::cuda
