#include "cuda/platform.cuh"
#include "kernels.h"

namespace semantics {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void shuffle_ints_kernel(const int* values, const int* operands, int* received, Kind kind,
                                    int width) {
  const int lane = threadIdx.x, value = values[lane], operand = operands[lane];
  if (kind == Kind::kIndex) received[lane] = __shfl_sync(kAll, value, operand, width);
  if (kind == Kind::kUp) received[lane] = __shfl_up_sync(kAll, value, operand, width);
  if (kind == Kind::kDown) received[lane] = __shfl_down_sync(kAll, value, operand, width);
  if (kind == Kind::kXor) received[lane] = __shfl_xor_sync(kAll, value, operand, width);
}

__global__ void shuffle_doubles_kernel(const double* values, double* received, int lane_mask) {
  received[threadIdx.x] = __shfl_xor_sync(kAll, values[threadIdx.x], lane_mask);
}

__global__ void shuffle_halves_kernel(const int* values, int* received) {
  const int lane = threadIdx.x;
  int value = values[lane];
  if (lane < 16) {
    value = __shfl_xor_sync(0x0000ffffu, value, 1);
  } else {
    value = __shfl_xor_sync(0xffff0000u, value, 1);
    value = __shfl_xor_sync(0xffff0000u, value, 2);
  }
  received[lane] = __shfl_sync(kAll, value, 31 - lane);
}

__global__ void votes_kernel(const int* predicates, int* results) {
  const int mine = predicates[threadIdx.x];
  int* to = results + 6 * threadIdx.x;
  to[0] = static_cast<int>(__ballot_sync(kAll, mine));
  to[1] = __any_sync(kAll, mine);
  to[2] = __all_sync(kAll, mine);
  to[3] = __syncthreads_or(mine);
  to[4] = __syncthreads_and(mine);
  to[5] = __syncthreads_count(mine);
}

__global__ void coordinates_kernel(int* seen) {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  int* to = seen + 12 * (int64_t{block} * threads + thread);
  const uint3 all[] = {threadIdx, blockIdx, blockDim, gridDim};
  for (const uint3& one : all) {
    *to++ = static_cast<int>(one.x);
    *to++ = static_cast<int>(one.y);
    *to++ = static_cast<int>(one.z);
  }
}

}  // namespace

void shuffle_ints(const int* values, const int* operands, int* received, Kind kind, int width) {
  KSHOT_LAUNCH(shuffle_ints_kernel, 1, 32, 0, nullptr, values, operands, received, kind, width);
}
void shuffle_doubles(const double* values, double* received, int lane_mask) {
  KSHOT_LAUNCH(shuffle_doubles_kernel, 1, 32, 0, nullptr, values, received, lane_mask);
}
void shuffle_halves(const int* values, int* received) {
  KSHOT_LAUNCH(shuffle_halves_kernel, 1, 32, 0, nullptr, values, received);
}
void votes(const int* predicates, int* results) {
  KSHOT_LAUNCH(votes_kernel, 1, 64, 0, nullptr, predicates, results);
}
void coordinates(int* seen, int grid_x, int grid_y, int grid_z, int block_x, int block_y, int block_z) {
  KSHOT_LAUNCH(coordinates_kernel, dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z), 0, nullptr,
               seen);
}

}  // namespace semantics
