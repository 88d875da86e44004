// SGD updates of many weight dictionaries: arguments and launch function; see sgd_update.cuh.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/mix_geometry.h"

namespace kshot::cuda {

// Uses of one dictionary travel in the parameters of a kernel. Whoever has more of them passes the dense
// gradient, which is the smaller form by then.
constexpr int64_t kMaxSgdUses = 40;

// One use of the dictionary: its part of the gradient is code[k] * gate[row] * grad[row, run, i].
struct SgdUse {
  const void* code;    // [K] of the sum type
  const void* gate;    // [rows] of the sum type, or null
  const void* grad;    // packed rows of runs of run_length
  int64_t rows;        // active rows; later rows have no gradient from this use
  int64_t run_length;  // active elements per run, in every row but perhaps a flat copy's last
};

struct SgdUpdate {
  MixGeometry geometry;  // the whole dictionary: all rows and full runs; a copy has fewer than 2^31 elements
  DType dtype;
  void* weight;
  void* momentum_buffer;  // like weight, or null
  const void* grad;       // dense, like weight; or null
  const SgdUse* uses;     // host memory
  int64_t use_count;      // kMaxSgdUses at most
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

// All updates of the list, in as few launches as the kernel's parameters allow.
void sgd_update(const SgdUpdate* updates, int64_t count, void* stream);

}  // namespace kshot::cuda
