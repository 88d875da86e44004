// SGD update of a weight dictionary: arguments of the kernel; see sgd_update.cpp.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/mix_geometry.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// One use of the dictionary: its part of the gradient is code[k] * gate[row] * grad[row, run, i].
struct SgdUse {
  const void* code;    // [K] of the sum type
  const void* gate;    // [rows] of the sum type, or null
  const void* grad;    // packed rows of runs of run_length
  int64_t rows;        // active rows; later rows have no gradient from this use
  int64_t run_length;  // active elements per run, in every row but perhaps a flat copy's last
};

struct SgdUpdate {
  MixGeometry geometry;  // the whole dictionary: all rows and full runs
  DType dtype;
  void* weight;
  void* momentum_buffer;  // like weight, or null
  const void* grad;       // dense, like weight; or null
  const SgdUse* uses;
  int64_t use_count;
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

// Rows [begin, end) of all K copies.
KSHOT_DECLARE(void sgd_update(const SgdUpdate& args, int64_t begin, int64_t end))

}  // namespace kshot::cpu
