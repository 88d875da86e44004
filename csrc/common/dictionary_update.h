// What the steps of all optimisers on a dictionary have in common, alike on every backend: the weight, and
// where its gradient comes from.
#pragma once

#include "common/dtype.h"
#include "common/mix_geometry.h"

namespace kshot {

// One use of the dictionary: its part of the gradient is code[k] * gate[row] * grad[row, run, i].
struct DictionaryUse {
  const void* code;    // [K] of the sum type
  const void* gate;    // [rows] of the sum type, or null
  const void* grad;    // packed rows of runs of run_length
  int64_t rows;        // active rows; later rows have no gradient from this use
  int64_t run_length;  // active elements per run, in every row but perhaps a flat copy's last
};

struct DictionaryUpdate {
  MixGeometry geometry;  // the whole dictionary: all rows and full runs
  DType dtype;
  void* weight;
  const void* grad;           // dense, like weight; or null
  const DictionaryUse* uses;  // host memory
  int64_t use_count;
  bool maximize;  // along the gradient, not against it
};

}  // namespace kshot
