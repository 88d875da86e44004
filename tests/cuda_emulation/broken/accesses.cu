// Accesses beside their arrays, and values that nobody wrote or that two wrote.
#include "cases.h"
#include "cuda/platform.cuh"

namespace broken {
namespace {

__device__ int64_t own_index() {
  return int64_t{blockIdx.x} * kThreads + threadIdx.x;
}

// One block goes over all tiles; the last one is not full.
template <bool broken>
__global__ void off_by_one_tile_kernel(Case c) {
  const int64_t tiles = broken ? c.size / kThreads : (c.size + kThreads - 1) / kThreads;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t i = tile * kThreads + threadIdx.x;
    if (i < c.size) c.results[i] = c.values[i];
  }
}

template <bool broken>
__global__ void unwritten_output_kernel(Case c) {
  const int64_t i = own_index();
  if (i < c.size - broken) c.results[i] = c.values[i];
}

// Reads the next value and makes nothing of it.
template <bool broken>
__global__ void out_of_bounds_load_kernel(Case c) {
  const int64_t i = own_index();
  if (i >= c.size) return;
  const float next = broken || i + 1 < c.size ? c.values[i + 1] : 0.0f;
  c.results[i] = next > 1e30f ? 0.0f : c.values[i];
}

template <bool broken>
__global__ void out_of_bounds_store_kernel(Case c) {
  const int64_t i = own_index();
  if (i < c.size) c.results[i] = c.values[i];
  if (broken && i == c.size - 1) c.results[i + 1] = 0.0f;
}

template <bool broken>
__global__ void out_of_bounds_shared_store_kernel(Case c) {
  KSHOT_DYNAMIC_SHARED(float, tile);
  const int64_t i = own_index();
  tile[threadIdx.x] = i < c.size ? c.values[i] : 0.0f;
  if (broken && threadIdx.x == 0) tile[kThreads] = 0.0f;
  __syncthreads();
  if (i < c.size) c.results[i] = tile[threadIdx.x];
}

template <bool broken>
__global__ void out_of_bounds_static_shared_kernel(Case c) {
  __shared__ float tile[kThreads];
  const int64_t i = own_index();
  tile[threadIdx.x + broken] = i < c.size ? c.values[i] : 0.0f;
  if (i < c.size) c.results[i] = tile[threadIdx.x + broken];
}

// The first four values of a block by one access.
template <bool broken>
__global__ void misaligned_vector_kernel(Case c) {
  const int64_t i = own_index();
  if (i < c.size) c.results[i] = c.values[i];
  if (threadIdx.x != 0 || i + 4 >= c.size) return;
  const float4 four = *reinterpret_cast<const float4*>(c.values + i + broken);
  c.results[i] = broken ? c.values[i] : four.x;
  if (four.y == 1e30f) c.results[i] = four.z + four.w;
}

// The first result is the sum of all values, the others are the values.
template <bool broken>
__global__ void float_atomics_kernel(Case c) {
  const int64_t i = own_index();
  if (i > 0 && i < c.size) c.results[i] = c.values[i];
  if (i == 0) {
    float sum = 0.0f;
    for (int64_t j = 0; j < c.size; ++j) sum += c.values[j];
    c.results[0] = sum;
    if (broken) atomicAdd(c.results, 0.0f);
  }
}

template <bool broken>
__global__ void two_blocks_write_one_word_kernel(Case c) {
  const int64_t i = own_index();
  if (i < c.size) c.results[i] = c.values[i];
  if (broken && threadIdx.x == 0) c.results[1] = c.values[1];
}

template <bool broken>
__global__ void block_reads_another_blocks_result_kernel(Case c) {
  const int64_t i = own_index();
  if (i < c.size) c.results[i] = c.values[i];
  if (broken && threadIdx.x == 0 && c.results[1] == 1e30f) c.results[i] = 0.0f;
}

template <bool broken>
__global__ void integer_division_by_zero_kernel(Case c) {
  const int64_t i = own_index();
  const volatile int divisor = broken ? static_cast<int>(threadIdx.x) : 1;
  if (i < c.size) c.results[i] = c.values[i] + static_cast<float>(7 / divisor - 7);
}

}  // namespace

#define LAUNCH(name, blocks, shared_bytes)                                                                \
  void name(const Case& c) {                                                                              \
    KSHOT_LAUNCH((c.broken ? name##_kernel<true> : name##_kernel<false>), blocks, kThreads, shared_bytes, \
                 nullptr, c);                                                                             \
  }

LAUNCH(off_by_one_tile, 1, 0)
LAUNCH(unwritten_output, blocks_of(c), 0)
LAUNCH(out_of_bounds_load, blocks_of(c), 0)
LAUNCH(out_of_bounds_store, blocks_of(c), 0)
LAUNCH(out_of_bounds_shared_store, blocks_of(c), kThreads * sizeof(float))
LAUNCH(out_of_bounds_static_shared, blocks_of(c), 0)
LAUNCH(misaligned_vector, blocks_of(c), 0)
LAUNCH(float_atomics, blocks_of(c), 0)
LAUNCH(two_blocks_write_one_word, blocks_of(c), 0)
LAUNCH(block_reads_another_blocks_result, blocks_of(c), 0)
LAUNCH(integer_division_by_zero, blocks_of(c), 0)

}  // namespace broken
