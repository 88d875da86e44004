// Moments of a channel, joined without cancellation (Chan, Golub, LeVeque 1979): those of parts of its
// positions, that threads and blocks make, and the small kernel that joins the blocks' in their order.
#pragma once

#include "cuda/platform.cuh"

namespace kshot::cuda {
namespace {

// Of one channel; the count goes with the positions and is kept apart.
template <class C>
struct Moments {
  C mean, squares;
};

// Joins `other`, of `count` positions, to `own`, of `before`. At least one position in all.
template <class C>
__device__ __forceinline__ void join(Moments<C>& own, const Moments<C>& other, C before, C count) {
  const C share = count / (before + count), distance = other.mean - own.mean;
  own.mean += distance * share;
  own.squares += other.squares + distance * distance * (before * share);
}

constexpr int kJoinChannels = 16, kJoinRows = 32;

// Mean and biased variance [C] from the moments [pieces, 2, C] of pieces that have counts_of(piece) positions
// each; zero where there are none. A block owns 16 channels; its threads join every 32nd piece each, then in
// pairs.
template <class C, class Counts>
__global__ void __launch_bounds__(kJoinChannels* kJoinRows)
    join_moments_kernel(const Counts counts_of, int channels, int pieces, const C* moments, C* mean,
                        C* variance) {
  __shared__ Moments<C> joined[kJoinRows][kJoinChannels];
  __shared__ C counts[kJoinRows][kJoinChannels];
  const int row = static_cast<int>(threadIdx.x) / kJoinChannels,
            column = static_cast<int>(threadIdx.x) % kJoinChannels;
  const int channel = static_cast<int>(blockIdx.x) * kJoinChannels + column;
  Moments<C> own{C(0), C(0)};
  C count = 0;
  if (channel < channels) {
#pragma unroll 1
    for (int piece = row; piece < pieces; piece += kJoinRows) {
      const C size = static_cast<C>(counts_of(piece));
      const C* from = moments + static_cast<int64_t>(piece) * 2 * channels + channel;
      if (size > C(0)) {
        join(own, Moments<C>{from[0], from[channels]}, count, size);
        count += size;
      }
    }
  }
  joined[row][column] = own;
  counts[row][column] = count;
#pragma unroll
  for (int half = kJoinRows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row < half && counts[row + half][column] > C(0)) {
      join(joined[row][column], joined[row + half][column], counts[row][column], counts[row + half][column]);
      counts[row][column] += counts[row + half][column];
    }
  }
  if (row == 0 && channel < channels) {
    count = counts[0][column];
    mean[channel] = joined[0][column].mean;
    variance[channel] = count > C(0) ? joined[0][column].squares / count : C(0);
  }
}

// Of pieces, from memory.
struct StoredCounts {
  const float* counts;
  __device__ __forceinline__ float operator()(int piece) const { return counts[piece]; }
};

template <class C, class Counts>
void launch_join_moments(const Counts& counts_of, int channels, int pieces, const C* moments, C* mean,
                         C* variance, cudaStream_t stream) {
  const int blocks = (channels + kJoinChannels - 1) / kJoinChannels;
  KSHOT_LAUNCH((join_moments_kernel<C, Counts>), dim3(blocks), dim3(kJoinChannels * kJoinRows), 0, stream,
               counts_of, channels, pieces, moments, mean, variance);
}

}  // namespace
}  // namespace kshot::cuda
