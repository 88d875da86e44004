// Kernels each of which breaks one claim that is made of the project's, to show that the checks see it.
#include "cuda/platform.cuh"

__global__ void __launch_bounds__(256) good(const float4* from, float4* to) {
  to[threadIdx.x] = from[threadIdx.x];
}

__global__ void __launch_bounds__(256) scalar_accesses(const float* from, float* to) {
  to[threadIdx.x] = from[threadIdx.x];
}

__global__ void __launch_bounds__(512, 3) spilling(const float* from, float* to) {
  float values[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) values[i] = from[i * 512 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) {
#pragma unroll
    for (int j = 0; j < 64; ++j) values[i] = values[i] * values[(i + j) % 64] + 1.0f;
  }
#pragma unroll
  for (int i = 0; i < 64; ++i) to[i * 512 + threadIdx.x] = values[i];
}

// An index that is not known to the compiler: no spills, but the array is in local memory.
__global__ void __launch_bounds__(256) indexed_array(const int* from, int* to, int size) {
  int counts[16] = {};
  for (int i = 0; i < size; ++i) counts[from[i] & 15] += i;
  for (int i = 0; i < 16; ++i) to[i] = counts[(i * size) & 15];
}

__global__ void __launch_bounds__(1024, 1) one_block(const float* from, float* to) {
  to[threadIdx.x] = from[threadIdx.x];
}

// Two blocks of threads fit, but not of shared memory where there are 100 KiB.
__global__ void __launch_bounds__(256) much_shared(const float* from, float* to) {
  __shared__ float values[12 * 1024];
  for (int i = threadIdx.x; i < 12 * 1024; i += 256) values[i] = from[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 12 * 1024; i += 256) to[i] = values[12 * 1024 - 1 - i];
}

// Two blocks of threads fit, but not of registers.
__global__ void __launch_bounds__(512, 1) many_registers(const float* from, float* to) {
  float values[80];
#pragma unroll
  for (int i = 0; i < 80; ++i) values[i] = from[i * 512 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 80; ++i) to[i * 512 + threadIdx.x] = values[i] * values[(i * 7 + 3) % 80];
}
