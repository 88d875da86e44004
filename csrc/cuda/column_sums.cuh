// Sums over the rows of small matrices, the second stage of sums whose first stage left one row per tile:
//
//     to[b, j] = sum_r from[b, r, j]
//
// A block owns 8 columns, one sector of floats; its threads take every 64th row each, and are then added up
// in pairs. The order depends on the number of rows only.
#pragma once

#include "cuda/job_list.cuh"

namespace kshot::cuda {
namespace {

struct ColumnSumJob {
  const void* from;  // [batches, rows, columns]
  void* to;          // [batches, columns]
  int rows, columns, batches;
};

constexpr int kSumColumns = 8, kSumRows = 64;

template <class C>
__global__ void __launch_bounds__(kSumColumns* kSumRows) column_sum_kernel(const JobList<ColumnSumJob> list) {
  __shared__ C sums[kSumRows][kSumColumns];
  const int index = list.job_of(static_cast<int>(blockIdx.x));
  const ColumnSumJob& job = list.jobs[index];
  const int groups = (job.columns + kSumColumns - 1) / kSumColumns;
  const int batch = (static_cast<int>(blockIdx.x) - list.first_block[index]) / groups;
  const int group = static_cast<int>(blockIdx.x) - list.first_block[index] - batch * groups;
  const int own_row = static_cast<int>(threadIdx.x) / kSumColumns;
  const int own_column = static_cast<int>(threadIdx.x) % kSumColumns;
  const int column = group * kSumColumns + own_column;
  const C* from = static_cast<const C*>(job.from) + static_cast<int64_t>(batch) * job.rows * job.columns;
  C sum = 0;
  if (column < job.columns) {
#pragma unroll 4
    for (int row = own_row; row < job.rows; row += kSumRows) {
      sum += from[static_cast<int64_t>(row) * job.columns + column];
    }
  }
  sums[own_row][own_column] = sum;
#pragma unroll
  for (int half = kSumRows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (own_row < half) sums[own_row][own_column] += sums[own_row + half][own_column];
  }
  if (own_row == 0 && column < job.columns) {
    static_cast<C*>(job.to)[static_cast<int64_t>(batch) * job.columns + column] = sums[0][own_column];
  }
}

inline int64_t column_sum_blocks(const ColumnSumJob& job) {
  return static_cast<int64_t>(job.batches) * ((job.columns + kSumColumns - 1) / kSumColumns);
}

}  // namespace
}  // namespace kshot::cuda
