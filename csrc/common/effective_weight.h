// Arguments of mixing one dictionary, alike on every backend.
#pragma once

#include "common/dtype.h"
#include "common/mix_geometry.h"

namespace kshot {

// Pointers to the sum type (float, or double for double) are void here, and typed in the kernels.
struct EffectiveWeight {
  MixGeometry geometry;
  DType dtype;
  const void* weight;           // [K, C_out, ...], strides in geometry
  const void* code;             // [N, K] or [rows, N, K] of the sum type
  const void* gate;             // [N, rows] or [rows] of the sum type, or null
  int64_t gate_stride;          // elements from sample to sample: rows, or 0 for a shared gate
  void* output;                 // [N, rows, ...] packed
  int64_t code_row_stride = 0;  // elements from row to row: N * K, or 0 for a code shared by the rows
};

}  // namespace kshot
