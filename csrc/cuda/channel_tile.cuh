// How blocks and threads share a [positions, channels] tensor where sums are over positions.
//
// A block owns a slab of channels and a range ("piece") of positions, all of one sample. A thread owns one
// vector of channels, 16 bytes or one element, for every rows-th position of the piece, so that per-channel
// values stay in its registers and a warp reads whole stretches of memory: where the slab holds all channels,
// the block's accesses follow each other without gaps. Pieces depend on sizes only, and so do sums.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "cuda/vector.cuh"

namespace kshot::cuda {

constexpr int kChannelThreads = 256;

struct ChannelTiling {
  int channels, lanes;
  int slabs, slab_vectors;     // vectors of a slab; the last one may have fewer
  int rows;                    // positions that a block reads at once
  int pieces;                  // of a sample
  int64_t samples, positions;  // positions of a sample

  __host__ __device__ int slab_channels() const { return slab_vectors * lanes; }
};

inline ChannelTiling channel_tiling(int64_t channels, int64_t samples, int64_t positions, int64_t lanes) {
  // A slab of 64 vectors is 1 KiB of a position; single elements need more of them for long accesses.
  const int64_t most_vectors = lanes == 1 ? kChannelThreads : 64;
  constexpr int64_t kElements = 1 << 14, kLeastPositions = 64, kMostBlocks = 1024;
  const auto cut = [](int64_t size, int64_t by) { return (size + by - 1) / by; };
  ChannelTiling tiling{};
  tiling.channels = static_cast<int>(channels);
  tiling.lanes = static_cast<int>(lanes);
  tiling.samples = samples;
  tiling.positions = positions;
  const int64_t vectors = channels / lanes;
  tiling.slabs = static_cast<int>(cut(vectors, most_vectors));
  tiling.slab_vectors = static_cast<int>(cut(vectors, tiling.slabs));
  tiling.rows = kChannelThreads / tiling.slab_vectors;
  // Per-channel values are read and written once a block, so a block has positions enough to outweigh them.
  int64_t own = std::max(kLeastPositions, cut(kElements, tiling.slab_channels()));
  own = std::max(own, cut(positions * tiling.slabs * samples, kMostBlocks));
  tiling.pieces = static_cast<int>(std::max<int64_t>(1, cut(positions, cut(own, tiling.rows) * tiling.rows)));
  return tiling;
}

inline dim3 grid_of(const ChannelTiling& tiling) {
  return dim3(static_cast<unsigned>(tiling.pieces * tiling.samples), static_cast<unsigned>(tiling.slabs));
}

// Calls body(constant) with the number of elements of a vector: 16 bytes if channels and alignment allow.
template <class T, class Body>
void dispatch_lanes(int64_t channels, std::initializer_list<Pixels<void>> images, const Body& body) {
  bool vectors = is_multiple(channels, kVectorLanes<T>);
  for (const Pixels<void>& image : images) {
    vectors = vectors && is_vector_aligned(image.data) && is_multiple(image.stride, kVectorLanes<T>);
  }
  if (vectors) {
    body(std::integral_constant<int, kVectorLanes<T>>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

// The part of one thread: positions first, first + step, ... below end, all in one sample.
struct ChannelPart {
  int64_t sample, piece;
  int64_t first, end;  // counted over all samples
  int step;
  int row, vector;  // of the block's positions and the slab's vectors
  int channel;
  bool active;  // whether the thread has any channels

  __device__ __forceinline__ ChannelPart(const ChannelTiling& tiling, unsigned block) {
    sample = block / static_cast<unsigned>(tiling.pieces);
    piece = block - sample * tiling.pieces;
    const int thread = static_cast<int>(threadIdx.x);
    row = thread / tiling.slab_vectors;
    vector = thread - row * tiling.slab_vectors;
    channel = (static_cast<int>(blockIdx.y) * tiling.slab_vectors + vector) * tiling.lanes;
    active = row < tiling.rows && channel < tiling.channels;
    const int64_t begin = sample * tiling.positions;
    first = begin + piece_begin(tiling, piece) + row;
    end = begin + piece_begin(tiling, piece + 1);
    step = tiling.rows;
  }

  // Where a piece begins in its sample.
  static __device__ __forceinline__ int64_t piece_begin(const ChannelTiling& tiling, int64_t piece) {
    const int64_t per_piece = (tiling.positions + tiling.pieces - 1) / tiling.pieces;
    const int64_t whole = (per_piece + tiling.rows - 1) / tiling.rows * tiling.rows;
    return min(piece * whole, tiling.positions);
  }
};

// One vector of channels: 16 bytes, or a single element of any alignment.
template <class T, int lanes>
__device__ __forceinline__ void store_channels(T* to, const Sum<T> (&from)[lanes]) {
  if constexpr (lanes == 1) {
    *to = from_sum<T>(from[0]);
  } else {
    store_global_vector<T>(to, from);
  }
}

// Slots of a block's sums in shared memory, [lanes][slots]: one for each of the threads that hand sums over,
// and for each vector of a slab. Four more than needed: so neighbouring channels lie in different banks.
template <int lanes>
constexpr int kSumSlots = lanes == 1 ? kChannelThreads : kChannelThreads / 2 + 4;

// Sums of the slab's channels, [lanes][slots] of shared memory, to neighbours in global memory, in whole
// sectors: a thread a channel. `to` has a place for every channel.
template <int lanes, class C>
__device__ __forceinline__ void store_slab(const ChannelTiling& tiling, C* to,
                                           const C (*sums)[kSumSlots<lanes>]) {
  const int first = static_cast<int>(blockIdx.y) * tiling.slab_channels(),
            count = min(tiling.slab_channels(), tiling.channels - first);
  for (int c = static_cast<int>(threadIdx.x); c < count; c += kChannelThreads) {
    to[first + c] = sums[c % lanes][c / lanes];
  }
}

}  // namespace kshot::cuda
