// sums[b] = sum of values[b * 256 ... b * 256 + 255]: a block owns a sum, a thread a value.
#pragma once

#include "block_sums.h"
#include "cuda/platform.cuh"

namespace example {
namespace {

__global__ void __launch_bounds__(kBlockSumThreads) block_sums_kernel(BlockSums arguments) {
  __shared__ float warp_sums[kBlockSumThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t i = int64_t{blockIdx.x} * kBlockSumThreads + threadIdx.x;
  float sum = i < arguments.size ? arguments.values[i] : 0.0f;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(0xffffffffu, sum, distance);
  if (lane == 0) warp_sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0.0f;
    for (const float part : warp_sums) total += part;
    arguments.sums[blockIdx.x] = total;
  }
}

}  // namespace
}  // namespace example
