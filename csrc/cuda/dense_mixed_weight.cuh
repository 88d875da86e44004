// Loader of the weight: mixes the K copies on their way to shared memory.
//
//     chunk[d, c] = factor * sum_k code[k] * copies[k, o, t, i]
//
// Forward, column c is the output channel o and depth d runs over (t, i); transposed, c is the input channel
// i, d runs over (t, o), and the factor is the gate of o. Neighbours in memory are input channels, so the
// chunk lies with its depth innermost forward, and outermost transposed: no transposition either way.
//
// A thread mixes a few vectors of 16 bytes. Those of the first copies are asked for before the products of
// the chunk before, the others after it. Where channels or strides are odd, elements are mixed one by one.
// Bound by the L2 cache, which all blocks with the same columns read the same copies from.
#pragma once

#include "cuda/dense_axis.cuh"
#include "cuda/dense_tile.cuh"

namespace kshot::cuda {
namespace {

// The part of the kernels' parameters that says what a weight is.
struct MixedWeight {
  const void* copies;
  int64_t shot_stride, out_stride, tap_stride;
  int32_t shots, kernel_width, columns;  // columns: active channels on the side that is not summed over
  bool vectors;                          // whether accesses of 16 bytes fit channels and strides
};

template <class Tile, bool transposed>
class MixedWeightLoader {
 public:
  using T = typename Tile::T;
  static constexpr int kLead = 1, kBuffers = 2;
  static constexpr bool kMaps = false;

  // `code` has a coefficient per copy, in shared memory; `gate`, if any, a factor per source channel.
  __device__ __forceinline__ MixedWeightLoader(const MixedWeight& weight, const DensePlaces& places,
                                               int first_column, const float* code, const float* gate)
      : weight_(weight), places_(places), first_column_(first_column), code_(code), gate_(gate) {}

  __device__ __forceinline__ void begin(int chunk, T*) {
    chunk_ = chunk;
    if (!weight_.vectors) return;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      place_[v] = place(vector_row(v), vector_column());
      // Outside, any memory that may be read will do.
      const T* from = copies() + (place_[v].inside ? place_[v].offset : 0);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (k < weight_.shots) ahead_[k][v] = load_words<kVectorBytes>(from + k * weight_.shot_stride);
      }
    }
  }

  __device__ __forceinline__ void finish(T* to) {
    if (!weight_.vectors) return mix_elements(to);
    float sums[kVectors][kLanes] = {};
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (k < weight_.shots) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) add(sums[v], code_[k], ahead_[k][v]);
      }
    }
#pragma unroll 4
    for (int k = kAhead; k < weight_.shots; ++k) {
      const float code = code_[k];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const T* from = copies() + (place_[v].inside ? place_[v].offset : 0);
        add(sums[v], code, load_words<kVectorBytes>(from + k * weight_.shot_stride));
      }
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const float factor = factor_of(place_[v]);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        sums[v][i] = Tile::rounded(place_[v].inside ? sums[v][i] * factor : 0.0f);
      }
      store_vector<T, kLanes>(to + vector_row(v) * Layout::kStride + vector_column(), sums[v]);
    }
  }

 private:
  using Layout = typename Tile::Right;
  static constexpr int kThreads = Tile::Shape::kThreads, kLanes = kVectorLanes<T>;
  static constexpr int kVectorsPerRow = Layout::kWidth / kLanes, kRowsPerPass = kThreads / kVectorsPerRow;
  static constexpr int kVectors = Layout::kHeight / kRowsPerPass;
  static constexpr int kAhead = 2;  // copies whose loads wait in registers

  struct Place {
    int64_t offset;  // in each copy
    int32_t source_channel;
    bool inside;
  };

  __device__ __forceinline__ const T* copies() const { return static_cast<const T*>(weight_.copies); }
  static __device__ __forceinline__ int vector_row(int v) {
    return static_cast<int>(threadIdx.x) / kVectorsPerRow + v * kRowsPerPass;
  }
  static __device__ __forceinline__ int vector_column() {
    return static_cast<int>(threadIdx.x) % kVectorsPerRow * kLanes;
  }
  static __device__ __forceinline__ void add(float (&sums)[kLanes], float code,
                                             const Words<kVectorBytes>& words) {
    float values[kLanes];
    unpack<T, kLanes>(values, words);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) sums[i] = fmaf(code, values[i], sums[i]);
  }

  // Where element (row, column) of the chunk's layout lies in each copy.
  __device__ __forceinline__ Place place(int row, int column) const {
    const int32_t depth = chunk_ * Tile::Shape::kDepth + (transposed ? row : column);
    const int32_t channel = first_column_ + (transposed ? column : row);
    const DenseTap tap = tap_of(places_, depth);
    const int64_t out = transposed ? tap.channel : channel, in = transposed ? channel : tap.channel;
    const int64_t kernel_tap = tap.kernel_y * weight_.kernel_width + tap.kernel_x;
    return {out * weight_.out_stride + kernel_tap * weight_.tap_stride + in, tap.channel,
            depth < places_.reduction && channel < weight_.columns};
  }

  __device__ __forceinline__ float factor_of(const Place& place) const {
    return gate_ != nullptr && place.inside ? gate_[place.source_channel] : 1.0f;
  }

  __device__ __forceinline__ void mix_elements(T* to) const {
    for (int e = static_cast<int>(threadIdx.x); e < Layout::kWidth * Layout::kHeight; e += kThreads) {
      const int row = e / Layout::kWidth, column = e % Layout::kWidth;
      const Place at = place(row, column);
      float sum = 0.0f;
      if (at.inside) {
        const T* from = copies() + at.offset;
#pragma unroll 4
        for (int k = 0; k < weight_.shots; ++k, from += weight_.shot_stride) {
          sum = fmaf(code_[k], to_sum(*from), sum);
        }
        sum *= factor_of(at);
      }
      to[row * Layout::kStride + column] = from_sum<T>(Tile::rounded(sum));
    }
  }

  const MixedWeight& weight_;
  const DensePlaces& places_;
  int first_column_, chunk_ = 0;
  const float *code_, *gate_;
  Place place_[kVectors];
  Words<kVectorBytes> ahead_[kAhead][kVectors];
};

}  // namespace
}  // namespace kshot::cuda
