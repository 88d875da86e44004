#include "kernels.h"

#include "cuda/platform.cuh"

namespace traffic_kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kSide = 32;  // of a matrix, and of a warp

__device__ int own_index() {
  return static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
}

__global__ void copy_kernel(const float* from, float* to) {
  const int i = own_index();
  to[i] = from[i];
}

__global__ void copy_vectors_kernel(const float* from, float* to) {
  const int i = own_index();
  reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(from)[i];
}

// Vectors whose elements are looked at on the way.
__global__ void scale_vectors_kernel(const float* from, float* to) {
  const int i = own_index();
  float4 values = reinterpret_cast<const float4*>(from)[i];
  values.x *= 2.0f;
  values.w *= 2.0f;
  reinterpret_cast<float4*>(to)[i] = values;
}

__global__ void strided_kernel(const float* from, float* to) {
  const int i = own_index();
  to[i] = from[8 * i];
}

__global__ void offset_kernel(const float* from, float* to) {
  const int i = own_index();
  to[i] = from[i + 1];
}

__global__ void same_for_all_kernel(const float* from, float* to) {
  to[own_index()] = from[0];
}

// Every block reads the same.
__global__ void read_again_kernel(const float* from, float* to) {
  to[own_index()] = from[threadIdx.x];
}

__global__ void read_twice_kernel(const volatile float* from, float* to) {
  const int i = own_index();
  to[i] = from[i] + from[i];
}

// Lanes leave the loop one after another.
__global__ void triangle_kernel(const float* from, float* to) {
  float sum = 0.0f;
  for (unsigned row = 0; row <= threadIdx.x; ++row) sum += from[row * kSide + threadIdx.x];
  to[threadIdx.x] = sum;
}

// One block of 32 x 8 threads turns a matrix.
template <int stride>
__global__ void transpose_kernel(const float* from, float* to) {
  __shared__ float tile[kSide * stride];
  for (unsigned row = threadIdx.y; row < kSide; row += 8) {
    tile[row * stride + threadIdx.x] = from[row * kSide + threadIdx.x];
  }
  __syncthreads();
  for (unsigned row = threadIdx.y; row < kSide; row += 8) {
    to[row * kSide + threadIdx.x] = tile[threadIdx.x * stride + row];
  }
}

// Lane l writes `width` floats at l * stride of shared memory.
template <int width, int stride>
__global__ void shared_vectors_kernel(const float* from, float* to) {
  using Vector = std::conditional_t<width == 4, float4, std::conditional_t<width == 2, float2, float>>;
  KSHOT_DYNAMIC_SHARED(float, tile);
  *reinterpret_cast<Vector*>(tile + threadIdx.x * stride) =
      reinterpret_cast<const Vector*>(from)[threadIdx.x];
  to[threadIdx.x] = tile[threadIdx.x];
}

__global__ void async_copy_kernel(const float* from, float* to) {
  KSHOT_DYNAMIC_SHARED(float, tile);
  __pipeline_memcpy_async(tile + 4 * threadIdx.x, from + 4 * threadIdx.x, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncwarp();
  to[threadIdx.x] = tile[threadIdx.x];
}

// Two copies a lane, of which odd lanes' first one only clears.
__global__ void async_clear_kernel(const float* from, float* to) {
  KSHOT_DYNAMIC_SHARED(float, tile);
  for (unsigned round = 0; round < 2; ++round) {
    const unsigned at = 4 * (round * kSide + threadIdx.x);
    __pipeline_memcpy_async(tile + at, from + at, 16, round == 0 && threadIdx.x % 2 == 1 ? 16 : 0);
  }
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncwarp();
  to[threadIdx.x] = tile[threadIdx.x];
}

// A float16 matrix of 16 x 16 goes through shared memory with rows of `stride` elements to a fragment.
template <int stride>
__global__ void matrix_kernel(const float* from, float* to) {
  namespace wmma = nvcuda::wmma;
  KSHOT_DYNAMIC_SHARED(__half, tile);
  for (unsigned i = threadIdx.x; i < 256; i += 32) tile[i / 16 * stride + i % 16] = __float2half(from[i]);
  __syncwarp();
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> a;
  wmma::load_matrix_sync(a, tile, stride);
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> b;
  wmma::fill_fragment(b, 1.0f);
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
  wmma::fill_fragment(sums, 0.0f);
  wmma::mma_sync(sums, a, b, sums);
  wmma::store_matrix_sync(to, sums, 16, wmma::mem_row_major);
}

}  // namespace

void run(const std::string& which, const float* from, float* to) {
  const auto launch = [&](void (*kernel)(const float*, float*), int blocks, dim3 threads, int shared_bytes) {
    KSHOT_LAUNCH(kernel, blocks, threads, shared_bytes, nullptr, from, to);
  };
  if (which == "copy") launch(copy_kernel, 4, kThreads, 0);
  if (which == "copy_vectors") launch(copy_vectors_kernel, 2, kThreads, 0);
  if (which == "scale_vectors") launch(scale_vectors_kernel, 2, kThreads, 0);
  if (which == "strided") launch(strided_kernel, 1, kThreads, 0);
  if (which == "offset") launch(offset_kernel, 4, kThreads, 0);
  if (which == "same_for_all") launch(same_for_all_kernel, 1, kThreads, 0);
  if (which == "read_again") launch(read_again_kernel, 4, kThreads, 0);
  if (which == "read_twice") {
    KSHOT_LAUNCH(read_twice_kernel, 4, kThreads, 0, nullptr, from, to);
  }
  if (which == "triangle") launch(triangle_kernel, 1, kSide, 0);
  if (which == "transpose") launch(transpose_kernel<kSide>, 1, dim3(kSide, 8), 0);
  if (which == "transpose_padded") launch(transpose_kernel<kSide + 1>, 1, dim3(kSide, 8), 0);
  if (which == "shared_1_by_2") launch(shared_vectors_kernel<1, 2>, 1, 32, 4096);
  if (which == "shared_2_by_2") launch(shared_vectors_kernel<2, 2>, 1, 32, 4096);
  if (which == "shared_4_by_4") launch(shared_vectors_kernel<4, 4>, 1, 32, 4096);
  if (which == "shared_4_by_8") launch(shared_vectors_kernel<4, 8>, 1, 32, 4096);
  if (which == "async_copy") launch(async_copy_kernel, 1, 32, 4096);
  if (which == "async_clear") launch(async_clear_kernel, 1, 32, 4096);
  if (which == "matrix") launch(matrix_kernel<16>, 1, 32, 4096);
  if (which == "matrix_padded") launch(matrix_kernel<24>, 1, 32, 4096);
}

}  // namespace traffic_kernels
