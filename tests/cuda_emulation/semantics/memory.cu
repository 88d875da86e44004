#include "cuda/platform.cuh"
#include "kernels.h"

namespace semantics {
namespace {

__global__ void pipeline_batches_kernel(const float* from, float* seen, int left) {
  __shared__ float tile[3];
  for (int i = 0; i < 3; ++i) {
    __pipeline_memcpy_async(tile + i, from + i, sizeof(float));
    __pipeline_commit();
  }
  __pipeline_wait_prior(left);
  for (int i = 0; i < 3; ++i) seen[i] = tile[i];
}

__global__ void pipeline_zero_fill_kernel(const float* from, float* seen) {
  KSHOT_DYNAMIC_SHARED(float, tile);
  __pipeline_memcpy_async(tile, from, 16, 8);
  __pipeline_memcpy_async(tile + 4, from + 4, 8, 4);
  __pipeline_memcpy_async(tile + 6, from + 6, 4, 4);
  __pipeline_memcpy_async(tile + 8, from + 8, 16, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  for (int i = 0; i < 12; ++i) seen[i] = i == 7 ? 0.0f : tile[i];
}

// One thread a block.
__global__ void unwritten_shared_kernel(float* seen) {
  KSHOT_DYNAMIC_SHARED(float, dynamic);
  __shared__ float fixed[2];
  seen[4 * blockIdx.x] = dynamic[0];
  seen[4 * blockIdx.x + 1] = dynamic[1];
  seen[4 * blockIdx.x + 2] = fixed[0];
  seen[4 * blockIdx.x + 3] = fixed[1];
  dynamic[0] = dynamic[1] = fixed[0] = fixed[1] = 1.0f;
}

__global__ void early_exit_kernel(const float* values, float* results) {
  __shared__ float tile[64];
  if (threadIdx.x >= 40) return;
  tile[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  results[threadIdx.x] = tile[39 - threadIdx.x];
}

}  // namespace

void pipeline_batches(const float* from, float* seen, int left) {
  KSHOT_LAUNCH(pipeline_batches_kernel, 1, 1, 0, nullptr, from, seen, left);
}
void pipeline_zero_fill(const float* from, float* seen) {
  KSHOT_LAUNCH(pipeline_zero_fill_kernel, 1, 1, 12 * sizeof(float), nullptr, from, seen);
}
void unwritten_shared(float* seen) {
  KSHOT_LAUNCH(unwritten_shared_kernel, 3, 1, 2 * sizeof(float), nullptr, seen);
}
void early_exit(const float* values, float* results) {
  KSHOT_LAUNCH(early_exit_kernel, 1, 64, 0, nullptr, values, results);
}

}  // namespace semantics
