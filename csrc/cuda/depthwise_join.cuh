// Sums of the threads of a block, joined per channel in an order that depends on the block's shape only.
#pragma once

#include "cuda/depthwise_taps.cuh"
#include "cuda/depthwise_tile.cuh"
#include "cuda/reduce.cuh"

namespace kshot::cuda {
namespace {

// Joins the sums of all threads of a channel in `joined` [channel][count], row pitch tap_pitch(count).
template <bool channels_last, int count, int lanes>
__device__ __forceinline__ void join_sums(float* joined, float (&sums)[count][lanes], const BlockShape& block,
                                          const Lane& lane) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  // Lanes of a warp that share a channel: their distances are [nearest, farthest].
  const int nearest = channels_last ? 1 << block.channel_lanes_log2 : 1;
  const int farthest = channels_last ? kWarpSize : min(kWarpSize, 1 << block.position_lanes_log2);
  for (int distance = nearest; distance < farthest; distance *= 2) {
#pragma unroll
    for (int t = 0; t < count; ++t) {
#pragma unroll
      for (int v = 0; v < lanes; ++v) sums[t][v] += __shfl_xor_sync(kAllLanes, sums[t][v], distance);
    }
  }
  for (int i = thread; i < block.channels * tap_pitch(count); i += threads) joined[i] = 0;
  const bool leads = channels_last ? thread % kWarpSize < nearest : thread % farthest == 0;
  for (int warp = 0; warp < threads / kWarpSize; ++warp) {
    __syncthreads();
    if (warp != thread / kWarpSize || !leads) continue;
#pragma unroll
    for (int v = 0; v < lanes; ++v) {
      float* to = joined + (lane.channel * lanes + v) * tap_pitch(count);
#pragma unroll
      for (int t = 0; t < count; ++t) to[t] += sums[t][v];
    }
  }
  __syncthreads();
}

}  // namespace
}  // namespace kshot::cuda
