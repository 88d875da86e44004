// Barriers that are missing, or not met by all.
#include "cases.h"
#include "cuda/platform.cuh"

namespace broken {
namespace {

// Every block is turned around.
template <bool broken>
__global__ void missing_barrier_kernel(Case c) {
  __shared__ float tile[kThreads];
  const int64_t first = int64_t{blockIdx.x} * kThreads;
  tile[threadIdx.x] = c.values[first + threadIdx.x];
  if (!broken) __syncthreads();
  c.results[first + threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

// One block turns all tiles around, in one buffer.
template <bool broken>
__global__ void missing_barrier_before_overwrite_kernel(Case c) {
  __shared__ float tile[kThreads];
  for (int64_t first = 0; first < c.size; first += kThreads) {
    tile[threadIdx.x] = c.values[first + threadIdx.x];
    __syncthreads();
    c.results[first + threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
    if (!broken) __syncthreads();
  }
}

// The same with two buffers, filled one tile ahead by asynchronous copies.
template <bool broken>
__global__ void missing_barrier_before_refill_kernel(Case c) {
  KSHOT_DYNAMIC_SHARED(float, stages);
  const int lane = static_cast<int>(threadIdx.x);
  const int tiles = static_cast<int>(c.size / kThreads);
  __pipeline_memcpy_async(stages + lane, c.values + lane, sizeof(float));
  __pipeline_commit();
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      __pipeline_memcpy_async(stages + (tile + 1) % 2 * kThreads + lane,
                              c.values + int64_t{tile + 1} * kThreads + lane, sizeof(float));
    }
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncthreads();
    c.results[int64_t{tile} * kThreads + lane] = stages[tile % 2 * kThreads + kThreads - 1 - lane];
    if (!broken) __syncthreads();
  }
}

// Neighbouring lanes swap.
template <bool broken>
__global__ void missing_syncwarp_kernel(Case c) {
  __shared__ float tile[kThreads];
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  tile[threadIdx.x] = c.values[i];
  if (!broken) __syncwarp();
  c.results[i] = tile[threadIdx.x ^ 1];
}

// The same; a shuffle makes lanes meet, but does not order what they wrote.
template <bool broken>
__global__ void shuffle_for_syncwarp_kernel(Case c) {
  __shared__ float tile[kThreads];
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  tile[threadIdx.x] = c.values[i];
  const float all = __shfl_sync(0xffffffffu, c.values[i], 0);
  if (!broken) __syncwarp();
  c.results[i] = all > 1e30f ? all : tile[threadIdx.x ^ 1];
}

template <bool broken>
__global__ void divergent_barrier_kernel(Case c) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (broken && threadIdx.x < kThreads / 2) {
    c.results[i] = c.values[i];
    __syncthreads();
  } else {
    __syncthreads();
    c.results[i] = c.values[i];
  }
}

template <bool broken>
__global__ void shuffle_with_ended_lanes_kernel(Case c) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const float value = c.values[i];
  if (threadIdx.x % 32 >= 16) {
    c.results[i] = value;
    if (broken) return;
  }
  const float other = __shfl_xor_sync(0xffffffffu, value, 1);
  if (threadIdx.x % 32 < 16) c.results[i] = other;
}

}  // namespace

#define LAUNCH(name, blocks, shared_bytes)                                                                \
  void name(const Case& c) {                                                                              \
    KSHOT_LAUNCH((c.broken ? name##_kernel<true> : name##_kernel<false>), blocks, kThreads, shared_bytes, \
                 nullptr, c);                                                                             \
  }

LAUNCH(missing_barrier, blocks_of(c), 0)
LAUNCH(missing_barrier_before_overwrite, 1, 0)
LAUNCH(missing_barrier_before_refill, 1, 2 * kThreads * sizeof(float))
LAUNCH(missing_syncwarp, blocks_of(c), 0)
LAUNCH(shuffle_for_syncwarp, blocks_of(c), 0)
LAUNCH(divergent_barrier, blocks_of(c), 0)
LAUNCH(shuffle_with_ended_lanes, blocks_of(c), 0)

}  // namespace broken
