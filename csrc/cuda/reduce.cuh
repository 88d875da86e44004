// Sums over the threads of a warp and of a block, in an order that depends on nothing but the block's size.
#pragma once

#include "cuda/platform.cuh"

namespace kshot::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The sum over all 32 lanes, in every lane.
template <class C>
__device__ __forceinline__ C warp_sum(C value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// Sums over a one-dimensional block of `threads`, a multiple of 32, in every thread: values[i] becomes the
// sum of all threads' values[i]. `scratch` is shared memory of count * threads / 32 elements, free for other
// uses again after the caller's next barrier.
template <int threads, int count, class C>
__device__ __forceinline__ void block_sums(C (&values)[count], C* scratch) {
  constexpr int warps = threads / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize,
            warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = warp_sum(values[i]);
    if (lane == 0) scratch[i * warps + warp] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = scratch[i * warps];
#pragma unroll
    for (int w = 1; w < warps; ++w) values[i] += scratch[i * warps + w];
  }
}

}  // namespace kshot::cuda
