// Mean and variance over positions, per channel, in two stages:
//
//     mean = sum x / count        variance = sum (x - mean)^2 / count
//
// First each block finds count, mean and sum of squared deviations ("moments") of its piece (see
// channel_tile.cuh): a thread takes four positions at a time, whose moments it makes exactly and joins to
// those before (Chan, Golub, LeVeque 1979), and threads of the same channels join theirs in pairs. Then a
// small kernel joins the pieces'. Nothing cancels, however large the mean. Bound by bytes: the input is read
// once.
#pragma once

#include "cuda/channel_tile.cuh"
#include "cuda/moments.cuh"

namespace kshot::cuda {
namespace {

template <class T, int lanes>
__global__ void __launch_bounds__(kChannelThreads, lanes == 8 ? 2 : 3)
    moments_kernel(const ChannelTiling tiling, const Pixels<T> input, Sum<T>* result) {
  using C = Sum<T>;
  constexpr int kBatch = 4, kSlots = kSumSlots<lanes>;
  // Lanes apart, so that neighbouring threads use neighbouring banks.
  __shared__ C means[lanes][kSlots], squares[lanes][kSlots], counts[kSlots];
  const ChannelPart part(tiling, blockIdx.x);
  Moments<C> own[lanes] = {};
  C count = 0;
  if (part.active) {
    int64_t p = part.first;
    for (; p + (kBatch - 1) * part.step < part.end; p += kBatch * part.step) {
      C x[kBatch][lanes];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        load_lanes<T, lanes>(x[b], input.data + (p + b * part.step) * input.stride + part.channel);
      }
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        Moments<C> batch{(x[0][i] + x[1][i] + (x[2][i] + x[3][i])) * C(1.0 / kBatch), C(0)};
#pragma unroll
        for (int b = 0; b < kBatch; ++b) batch.squares += (x[b][i] - batch.mean) * (x[b][i] - batch.mean);
        join(own[i], batch, count, C(kBatch));
      }
      count += C(kBatch);
    }
    for (; p < part.end; p += part.step) {
      C x[lanes];
      load_lanes<T, lanes>(x, input.data + p * input.stride + part.channel);
#pragma unroll
      for (int i = 0; i < lanes; ++i) join(own[i], Moments<C>{x[i], C(0)}, count, C(1));
      count += C(1);
    }
  }
  for (int rows = tiling.rows; rows > 1;) {
    const int half = (rows + 1) / 2, slot = (part.row - half) * tiling.slab_vectors + part.vector;
    if (part.active && part.row >= half && part.row < rows) {
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        means[i][slot] = own[i].mean;
        squares[i][slot] = own[i].squares;
      }
      counts[slot] = count;
    }
    __syncthreads();
    if (part.active && part.row + half < rows) {
      const int other = part.row * tiling.slab_vectors + part.vector;
      const C other_count = counts[other];
      if (other_count > C(0)) {
#pragma unroll
        for (int i = 0; i < lanes; ++i) {
          join(own[i], Moments<C>{means[i][other], squares[i][other]}, count, other_count);
        }
        count += other_count;
      }
    }
    __syncthreads();
    rows = half;
  }
  if (part.active && part.row == 0) {
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      means[i][part.vector] = own[i].mean;
      squares[i][part.vector] = own[i].squares;
    }
  }
  __syncthreads();
  C* to = result + part.piece * 2 * tiling.channels;
  store_slab<lanes>(tiling, to, means);
  store_slab<lanes>(tiling, to + tiling.channels, squares);
}

// How many positions a piece has.
template <class C>
struct PieceCounts {
  ChannelTiling tiling;
  __device__ __forceinline__ C operator()(int piece) const {
    return static_cast<C>(ChannelPart::piece_begin(tiling, piece + 1) -
                          ChannelPart::piece_begin(tiling, piece));
  }
};

}  // namespace
}  // namespace kshot::cuda
