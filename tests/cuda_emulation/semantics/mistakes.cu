#include "cuda/platform.cuh"
#include "kernels.h"

namespace semantics {
namespace {

namespace wmma = nvcuda::wmma;

struct Large {
  char bytes[5000];
};

__global__ void nothing_kernel(float*) {}
__global__ void large_kernel(Large) {}

// The upper half waits for ever where the lower half shuffles.
__global__ void deadlock_kernel(float* results) {
  if (threadIdx.x < 16) {
    results[0] = __shfl_sync(0xffffffffu, 1.0f, 0);
  } else {
    __syncthreads();
  }
}

__global__ void two_operations_kernel(float* results) {
  if (threadIdx.x < 16) {
    results[0] = __shfl_sync(0xffffffffu, 1.0f, 0);
  } else {
    results[1] = __shfl_sync(0xffffffffu, 1.0f, 0);
  }
}

__global__ void outside_mask_kernel(float* results) {
  results[0] = __shfl_sync(0x0000ffffu, 1.0f, 0);
}

__global__ void source_outside_mask_kernel(float* results) {
  if (threadIdx.x < 16) results[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 16);
}

__global__ void width_kernel(float* results) {
  results[0] = __shfl_sync(0xffffffffu, 1.0f, 0, 12);
}

__global__ void ballot_kernel(float* results) {
  if (__ballot_sync(0xffffffffu, 1) == 0) results[0] = 1.0f;
}

// Every turn ends in a switch to the other thread.
__global__ void endless_barriers_kernel(const volatile float* results) {
  while (results[0] != 1.0f) __syncthreads();
}

__global__ void endless_loop_kernel(const volatile float* results) {
  while (results[0] != 1.0f) {
  }
}

__global__ void null_kernel(float* results) {
  *static_cast<volatile float*>(results - (results - (float*)0)) = 1.0f;
}

__global__ void large_array_kernel(float* results) {
  volatile char large[1 << 19];
  for (int i = 0; i < 1 << 19; ++i) large[i] = 1;
  results[0] = large[5];
}

__global__ void changes_input_kernel(float* results) {
  results[0] = 5.0f;
}

__global__ void before_array_kernel(float* results) {
  results[-1] = 5.0f;
}

__global__ void wild_store_kernel(float* results) {
  results[100000] = 5.0f;
}

template <int offset, int stride>
__global__ void matrix_kernel(float* results) {
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
  wmma::fill_fragment(sums, 0.0f);
  wmma::store_matrix_sync(results + offset, sums, stride, wmma::mem_row_major);
}

__global__ void matrix_pointers_kernel(float* results) {
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
  wmma::fill_fragment(sums, 0.0f);
  wmma::store_matrix_sync(results + 8 * (threadIdx.x / 16), sums, 16, wmma::mem_row_major);
}

template <int bytes>
__global__ void async_copy_kernel(float* results) {
  KSHOT_DYNAMIC_SHARED(float, tile);
  __pipeline_memcpy_async(tile, results, bytes);
}

__global__ void async_copy_to_global_kernel(float* results) {
  __pipeline_memcpy_async(results, results + 4, 16);
}

}  // namespace

void mistake(const std::string& which, float* results) {
  const auto launch = [&](void (*kernel)(float*), int threads, int shared_bytes = 0) {
    KSHOT_LAUNCH(kernel, 1, threads, shared_bytes, nullptr, results);
  };
  if (which == "deadlock") launch(deadlock_kernel, 32);
  if (which == "two operations") launch(two_operations_kernel, 32);
  if (which == "outside mask") launch(outside_mask_kernel, 32);
  if (which == "source outside mask") launch(source_outside_mask_kernel, 32);
  if (which == "lanes that do not exist") launch(ballot_kernel, 20);
  if (which == "width") launch(width_kernel, 32);
  if (which == "endless barriers") KSHOT_LAUNCH(endless_barriers_kernel, 1, 2, 0, nullptr, results);
  if (which == "endless loop") KSHOT_LAUNCH(endless_loop_kernel, 1, 2, 0, nullptr, results);
  if (which == "null") launch(null_kernel, 1);
  if (which == "stack") launch(large_array_kernel, 1);
  if (which == "changes input") launch(changes_input_kernel, 1);
  if (which == "before array") launch(before_array_kernel, 1);
  if (which == "wild store") launch(wild_store_kernel, 1);
  if (which == "matrix alignment") launch(matrix_kernel<4, 16>, 32);
  if (which == "matrix stride") launch(matrix_kernel<0, 18>, 32);
  if (which == "matrix pointers") launch(matrix_pointers_kernel, 32);
  if (which == "async bytes") launch(async_copy_kernel<12>, 1, 64);
  if (which == "async to global") launch(async_copy_to_global_kernel, 1);
  if (which == "no threads") launch(nothing_kernel, 0);
  if (which == "no blocks") KSHOT_LAUNCH(nothing_kernel, 0, 32, 0, nullptr, results);
  if (which == "block size") launch(nothing_kernel, 1056);
  if (which == "grid size") KSHOT_LAUNCH(nothing_kernel, dim3(1, 65536), 32, 0, nullptr, results);
  if (which == "parameters") KSHOT_LAUNCH(large_kernel, 1, 1, 0, nullptr, Large{});
  if (which == "shared memory") launch(nothing_kernel, 1, (48 << 10) + 1);
  if (which == "shared memory allowed") {
    cudaFuncSetAttribute(deadlock_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10);
    launch(deadlock_kernel, 1, 227 << 10);
  }
  if (which == "shared memory at most") {
    cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1);
  }
}

}  // namespace semantics
