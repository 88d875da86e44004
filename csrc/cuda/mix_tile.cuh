// The active part of a weight dictionary as the mixing kernels walk it.
//
// Elements are numbered as in the packed effective weight. A block owns a tile of threads * lanes consecutive
// numbers, a thread `lanes` of them: consecutive ones, moved by one access of 16 bytes, or, where alignment
// or the length of runs forbids that, ones that lie `threads` apart, so that a warp's accesses stay dense.
// One copy has fewer than 2^31 elements; the copies together may have more.
#pragma once

#include <initializer_list>

#include "common/mix_geometry.h"
#include "cuda/vector.cuh"

namespace kshot::cuda {

struct MixShape {
  int64_t shot_stride;
  int sample_size;
  int shots, samples, rows;
  int row_length;              // packed elements of a row
  int runs, run_length;        // of a row; the whole copy is one run where nothing is left out
  int row_stride, run_stride;  // in a copy
  int gate_stride;
  bool vectors;  // whether accesses of 16 bytes are possible
};

// `pointers` are those to elements: dictionary, effective weight, their gradients (or null).
inline MixShape mix_shape(const MixGeometry& geometry, int64_t gate_stride, int64_t element_bytes,
                          std::initializer_list<const void*> pointers) {
  MixShape shape{};
  shape.shot_stride = geometry.shot_stride;
  shape.sample_size = static_cast<int>(geometry.sample_size);
  shape.shots = static_cast<int>(geometry.shots);
  shape.samples = static_cast<int>(geometry.samples);
  shape.rows = static_cast<int>(geometry.rows);
  shape.row_length = static_cast<int>(geometry.runs * geometry.run_length);
  shape.row_stride = static_cast<int>(geometry.row_stride);
  shape.gate_stride = static_cast<int>(gate_stride);
  const bool dense = geometry.row_stride == shape.row_length &&
                     (geometry.runs == 1 || geometry.run_stride == geometry.run_length);
  shape.runs = dense ? 1 : static_cast<int>(geometry.runs);
  shape.run_length = dense ? shape.sample_size : static_cast<int>(geometry.run_length);
  shape.run_stride = dense ? 0 : static_cast<int>(geometry.run_stride);
  const int64_t lanes = kVectorBytes / element_bytes;
  shape.vectors = is_multiple(shape.run_length, lanes) && is_multiple(geometry.shot_stride, lanes) &&
                  (dense || (is_multiple(shape.row_stride, lanes) && is_multiple(shape.run_stride, lanes))) &&
                  (geometry.samples <= 1 || is_multiple(geometry.sample_size, lanes));
  for (const void* pointer : pointers) shape.vectors = shape.vectors && is_vector_aligned(pointer);
  return shape;
}

inline int64_t tiles_of(const MixShape& shape, int64_t tile) {
  return (shape.sample_size + tile - 1) / tile;
}

// The elements of one thread in one tile. A block of several times `threads` threads holds the tile as often.
template <class T, int threads, bool vectors>
class TileElements {
 public:
  static constexpr int kLanes = kVectorLanes<T>;
  static constexpr int kTile = threads * kLanes;
  using Raw = Words<kVectorBytes>;

  __device__ __forceinline__ TileElements(const MixShape& shape, int tile) {
    const int thread = own_thread(), begin = tile * kTile;
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) {
      const int index = begin + (vectors ? thread * kLanes : thread + a * threads);
      packed_[a] = index < shape.sample_size ? index : kNone;
      if (shape.run_length == shape.sample_size) {
        copy_[a] = index;
      } else {
        const int run = index / shape.run_length, row = run / shape.runs;
        copy_[a] = row * shape.row_stride + (run - row * shape.runs) * shape.run_stride +
                   (index - run * shape.run_length);
      }
    }
  }

  // In the effective weight, packed; zero beyond its end.
  __device__ __forceinline__ Raw load_packed(const T* from) const { return load(from, packed_); }
  __device__ __forceinline__ void store_packed(T* to, const Raw& raw) const { store(to, packed_, raw); }
  // In a copy of the dictionary.
  __device__ __forceinline__ Raw load_copy(const T* from) const { return load(from, copy_); }
  __device__ __forceinline__ void store_copy(T* to, const Raw& raw) const { store(to, copy_, raw); }

  // The gate of each element's row.
  __device__ __forceinline__ void load_gates(Sum<T> (&to)[kLanes], const Sum<T>* gate, int row_length) const {
    if constexpr (vectors) {
      if (packed_[0] == kNone) return;
      int row = packed_[0] / row_length, rest = packed_[0] - row * row_length;
      Sum<T> value = gate[row];
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        to[i] = value;
        if (++rest == row_length && i + 1 < kLanes) {
          rest = 0;
          value = gate[++row];
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        if (packed_[i] != kNone) to[i] = gate[packed_[i] / row_length];
      }
    }
  }

  // The place of element i in the tile.
  static __device__ __forceinline__ int place(int i) {
    return vectors ? own_thread() * kLanes + i : own_thread() + i * threads;
  }

 private:
  static constexpr int kAccesses = vectors ? 1 : kLanes;
  static constexpr int kNone = -1;

  static __device__ __forceinline__ int own_thread() { return static_cast<int>(threadIdx.x) % threads; }

  __device__ __forceinline__ Raw load(const T* from, const int (&at)[kAccesses]) const {
    Raw raw{};
    if constexpr (vectors) {
      if (packed_[0] != kNone) raw = load_words<kVectorBytes>(from + at[0]);
    } else {
      Sum<T> values[kLanes];
#pragma unroll
      for (int i = 0; i < kLanes; ++i) values[i] = packed_[i] != kNone ? to_sum(from[at[i]]) : Sum<T>(0);
      raw = pack<T, kLanes>(values);
    }
    return raw;
  }

  __device__ __forceinline__ void store(T* to, const int (&at)[kAccesses], const Raw& raw) const {
    if constexpr (vectors) {
      if (packed_[0] != kNone) store_global(to + at[0], raw);
    } else {
      Sum<T> values[kLanes];
      unpack<T, kLanes>(values, raw);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        if (packed_[i] != kNone) to[at[i]] = from_sum<T>(values[i]);
      }
    }
  }

  int packed_[kAccesses], copy_[kAccesses];
};

// to += code * copy
template <class T>
__device__ __forceinline__ void add_copy(Sum<T> (&to)[kVectorLanes<T>], const Words<kVectorBytes>& copy,
                                         Sum<T> code) {
  Sum<T> values[kVectorLanes<T>];
  unpack<T, kVectorLanes<T>>(values, copy);
#pragma unroll
  for (int i = 0; i < kVectorLanes<T>; ++i) to[i] += code * values[i];
}

}  // namespace kshot::cuda
