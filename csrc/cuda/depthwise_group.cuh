// A thread's group of targets in the tiled gather of depthwise convolution: the sums, and their way to
// memory.
#pragma once

#include "cuda/depthwise_taps.cuh"
#include "cuda/depthwise_tile.cuh"

namespace kshot::cuda {
namespace {

// Which targets of a group exist.
template <int rows, int columns>
struct GroupBounds {
  int y, x, height, width, row_step, column_step;

  __device__ __forceinline__ GroupBounds(int row, int column, const TileAxis& of_height,
                                         const TileAxis& of_width)
      : y(row),
        x(column),
        height(of_height.target),
        width(of_width.target),
        row_step(of_height.target_step),
        column_step(of_width.target_step) {}

  __device__ __forceinline__ bool has_row(int i) const {
    return static_cast<unsigned>(y + i * row_step) < static_cast<unsigned>(height);
  }
  __device__ __forceinline__ bool has_column(int j) const {
    return static_cast<unsigned>(x + j * column_step) < static_cast<unsigned>(width);
  }
  __device__ __forceinline__ int count() const {
    int held_rows = 0, held_columns = 0;
#pragma unroll
    for (int i = 0; i < rows; ++i) held_rows += has_row(i);
#pragma unroll
    for (int j = 0; j < columns; ++j) held_columns += has_column(j);
    return held_rows * held_columns;
  }
};

// The taps of a thread's channels, [channel][tap_pitch] in shared memory: in registers, or read at every use
// where these do not hold them.
template <int count, int lanes, bool in_registers>
struct ThreadTaps {
  float held[count][lanes];

  __device__ __forceinline__ explicit ThreadTaps(const float* from) {
#pragma unroll
    for (int v = 0; v < lanes; ++v, from += tap_pitch(count)) {
#pragma unroll
      for (int t = 0; t < count; ++t) held[t][v] = from[t];
    }
  }
  __device__ __forceinline__ float operator()(int tap, int lane) const { return held[tap][lane]; }
};
template <int count, int lanes>
struct ThreadTaps<count, lanes, false> {
  const float* from;

  __device__ __forceinline__ explicit ThreadTaps(const float* taps) : from(taps) {}
  __device__ __forceinline__ float operator()(int tap, int lane) const {
    return from[lane * tap_pitch(count) + tap];
  }
};

// `taps(tap, lane)` of the thread's channels. Calls meet(row, column, tap, lane, source) wherever a source
// meets a target.
template <class Rows, class Columns, int lanes, class T, class Taps, class Meet>
__device__ __forceinline__ void gather_group(float (&sums)[Rows::size][Columns::size][lanes],
                                             const Taps& taps, const T* from, int row_step, int column_step,
                                             const Meet& meet) {
#pragma unroll
  for (int r = 0; r < Rows::sources; ++r, from += row_step) {
    float source[Columns::sources][lanes];
    load_columns<Columns::sources, lanes>(source, from, column_step);
#pragma unroll
    for (int i = 0; i < Rows::size; ++i) {
      if (!Rows::meet(r, i)) continue;
#pragma unroll
      for (int j = 0; j < Columns::size; ++j) {
#pragma unroll
        for (int k = 0; k < Columns::kernel; ++k) {
          if (!Columns::has_source(k, j)) continue;
#pragma unroll
          for (int v = 0; v < lanes; ++v) {
            const int tap = Rows::tap(r, i) * Columns::kernel + k;
            const float value = source[Columns::source(k, j)][v];
            sums[i][j][v] = fmaf(taps(tap, v), value, sums[i][j][v]);
            meet(i, j, tap, v, value);
          }
        }
      }
    }
  }
}

// Stores the targets of a group that exist.
template <class T, int rows, int columns, int lanes>
__device__ __forceinline__ void store_group(const float (&sums)[rows][columns][lanes], T* to,
                                            const GroupBounds<rows, columns>& bounds, int64_t row_stride,
                                            int64_t column_stride, bool whole_lanes, int channels_left) {
  const int64_t column_step = column_stride * bounds.column_step;
  to += bounds.y * row_stride + bounds.x * column_stride;
#pragma unroll
  for (int i = 0; i < rows; ++i, to += row_stride * bounds.row_step) {
    if (!bounds.has_row(i)) continue;
    T* at = to;
#pragma unroll
    for (int j = 0; j < columns; ++j, at += column_step) {
      if (!bounds.has_column(j)) continue;
      if constexpr (lanes == 1) {
        *at = from_sum<T>(sums[i][j][0]);
      } else if (whole_lanes) {
        store_vector<T, lanes>(at, sums[i][j]);
      } else {
        store_first<T, lanes>(at, sums[i][j], channels_left);
      }
    }
  }
}

}  // namespace
}  // namespace kshot::cuda
