#include "cuda/platform.cuh"
#include "kernels.h"

namespace semantics {
namespace {

constexpr int kThreads = 64;

__device__ int64_t own_index() {
  return int64_t{blockIdx.x} * kThreads + threadIdx.x;
}

unsigned blocks_for(int64_t size) {
  return static_cast<unsigned>((size + kThreads - 1) / kThreads);
}

__global__ void to_float16_kernel(const float* from, uint16_t* to, float* back, int64_t size) {
  const int64_t i = own_index();
  if (i >= size) return;
  const __half value = __float2half(from[i]);
  to[i] = __half_as_ushort(value);
  back[i] = __half2float(value);
}

__global__ void to_bfloat16_kernel(const float* from, uint16_t* to, float* back, int64_t size) {
  const int64_t i = own_index();
  if (i >= size) return;
  const __nv_bfloat16 value = __float2bfloat16(from[i]);
  to[i] = __bfloat16_as_ushort(value);
  back[i] = __bfloat162float(value);
}

__global__ void double_to_float16_kernel(const double* from, uint16_t* to, int64_t size) {
  const int64_t i = own_index();
  if (i < size) to[i] = __half_as_ushort(__double2half(from[i]));
}

__global__ void to_tf32_kernel(const float* from, float* to, int64_t size) {
  const int64_t i = own_index();
  if (i < size) to[i] = nvcuda::wmma::__float_to_tf32(from[i]);
}

__global__ void atomics_kernel(const int* values, int* results, int64_t size) {
  const int64_t i = own_index();
  if (i >= size) return;
  atomicAdd(results, values[i]);
  atomicMax(results + 1, values[i]);
  atomicAdd(results + 2, 1);
}

__global__ void bits_kernel(const unsigned* values, unsigned* results, int64_t size) {
  const int64_t i = own_index();
  if (i >= size) return;
  const unsigned value = values[i];
  unsigned* to = results + 5 * i;
  to[0] = static_cast<unsigned>(__popc(value));
  to[1] = static_cast<unsigned>(__ffs(static_cast<int>(value)));
  to[2] = static_cast<unsigned>(__clz(static_cast<int>(value)));
  to[3] = __brev(value);
  to[4] = __umulhi(value, value);
}

}  // namespace

void to_float16(const float* from, uint16_t* to, float* back, int64_t size) {
  KSHOT_LAUNCH(to_float16_kernel, blocks_for(size), kThreads, 0, nullptr, from, to, back, size);
}
void to_bfloat16(const float* from, uint16_t* to, float* back, int64_t size) {
  KSHOT_LAUNCH(to_bfloat16_kernel, blocks_for(size), kThreads, 0, nullptr, from, to, back, size);
}
void double_to_float16(const double* from, uint16_t* to, int64_t size) {
  KSHOT_LAUNCH(double_to_float16_kernel, blocks_for(size), kThreads, 0, nullptr, from, to, size);
}
void to_tf32(const float* from, float* to, int64_t size) {
  KSHOT_LAUNCH(to_tf32_kernel, blocks_for(size), kThreads, 0, nullptr, from, to, size);
}
void atomics(const int* values, int* results, int64_t size) {
  KSHOT_LAUNCH(atomics_kernel, blocks_for(size), kThreads, 0, nullptr, values, results, size);
}
void bits(const unsigned* values, unsigned* results, int64_t size) {
  KSHOT_LAUNCH(bits_kernel, blocks_for(size), kThreads, 0, nullptr, values, results, size);
}

}  // namespace semantics
