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

// Sums `count` values (a power of two up to 32) over the warp at once, in about as many shuffles as `count`
// and not five times as many: each step halves the values that a lane is in charge of. Returns the sum of
// values[lane / (32 / count)].
template <int count, class C>
__device__ __forceinline__ C warp_sums(C (&values)[count]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int distance = kWarpSize / 2;
#pragma unroll
  for (int half = count / 2; half > 0; half /= 2, distance /= 2) {
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const C sent = upper ? values[i] : values[i + half];
      const C kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(kAllLanes, sent, distance);
    }
  }
  C sum = values[0];
#pragma unroll
  for (; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  return sum;
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
