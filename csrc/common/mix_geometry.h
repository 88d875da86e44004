// Geometry of a weight dictionary and of the active part that a call uses, as rows of runs.
//
//     weight[k, row, run, i]  at  k * shot_stride + row * row_stride + run * run_stride + i
//     effective[n, row, run, i] packed: n * sample_size + (row * runs + run) * run_length + i
//
// A row is one output channel. A run is what is contiguous in it: with copies in channels_last a row is KH *
// KW runs over the input channels, otherwise one run over input channels and kernel. Slicing the input
// channels shortens the runs. Where nothing is sliced or gated, rows carry no meaning and the whole copy is
// cut into rows of kFlatRow elements instead, the last one shorter, so that small rows cost nothing.
#pragma once

#include <cstdint>

namespace kshot {

constexpr int64_t kFlatRow = 4096;

struct MixGeometry {
  int64_t shots;            // K
  int64_t samples;          // rows of the code: N, or 1 for a code shared by the batch
  int64_t rows;             // active output channels, or pieces of the flat copy
  int64_t runs;             // runs per row
  int64_t run_length;       // active elements per run
  int64_t last_run_length;  // the same in the last row (shorter only for a flat copy)
  int64_t shot_stride;
  int64_t row_stride;
  int64_t run_stride;
  int64_t sample_size;  // elements of one effective weight

  int64_t length_in(int64_t row) const { return row + 1 == rows ? last_run_length : run_length; }
  int64_t packed_offset(int64_t row, int64_t run) const { return (row * runs + run) * run_length; }
  int64_t weight_offset(int64_t row, int64_t run) const { return row * row_stride + run * run_stride; }
};

}  // namespace kshot
