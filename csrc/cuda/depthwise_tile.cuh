// Tiles of an image in shared memory, for the depthwise kernels: what a block holds, how it gets there, and
// which of it a thread reads.
//
// A block owns some channels and a tile of target positions; it holds the source positions that they reach,
// zeros where those lie outside of the image, so that no thread asks for an edge again. Rows are copied by
// groups of lanes, in pieces of 16 bytes where sizes and alignment allow, asynchronously.
//
//     channels_last   held [row][column][channel]     lanes along the channels
//     contiguous      held [channel][row][column]     lanes along the columns
#pragma once

#include "cuda/depthwise_tile_plan.h"
#include "cuda/vector.cuh"

namespace kshot::cuda {

struct Lane {
  int channel, position;
};

// Neighbouring threads are neighbours in memory.
template <bool channels_last>
__device__ __forceinline__ Lane lane_of_thread(const BlockShape& block) {
  const int thread = static_cast<int>(threadIdx.x);
  if (channels_last) {
    return {thread & ((1 << block.channel_lanes_log2) - 1), thread >> block.channel_lanes_log2};
  }
  return {thread >> block.position_lanes_log2, thread & ((1 << block.position_lanes_log2) - 1)};
}

// Strides of an image, in elements; that of its pixels in channels_last is given.
template <bool channels_last>
struct ImageStrides {
  int64_t row, column, channel;
  __device__ __forceinline__ ImageStrides(int64_t pixel, int height, int width)
      : row(channels_last ? width * pixel : width),
        column(channels_last ? pixel : 1),
        channel(channels_last ? 1 : static_cast<int64_t>(height) * width) {}
};

// One piece, or zeros where it is not inside; `inside` is `from` or any valid address.
template <class T>
__device__ __forceinline__ void copy_piece(T* to, const T* from, int bytes, bool inside) {
  if (bytes == 16) {
    __pipeline_memcpy_async(to, from, 16, inside ? 0 : 16);
  } else if (bytes == 8) {
    __pipeline_memcpy_async(to, from, 8, inside ? 0 : 8);
  } else if (bytes == 4) {
    __pipeline_memcpy_async(to, from, 4, inside ? 0 : 4);
  } else {
    *to = inside ? *from : from_sum<T>(0);
  }
}

// Where a tile lies in the image that it is a part of.
struct TilePlace {
  int row, column, channel;     // its first source, which may lie outside
  int height, width, channels;  // of the image
  int64_t stride;               // of its pixels
};

// That of the sources of a tile of targets.
__device__ __forceinline__ TilePlace source_place(const TilePlan& plan, int tile_row, int tile_column,
                                                  int channel) {
  return {plan.height.source_origin + tile_row * plan.height.source_advance,
          plan.width.source_origin + tile_column * plan.width.source_advance,
          channel,
          plan.height.source,
          plan.width.source,
          plan.channels,
          plan.source_stride};
}

// Calls body(element of the tile, element of the sample, channel in the tile, whether it is inside) for the
// pieces that this thread brings to the tile.
template <class T, bool channels_last, class Body>
__device__ __forceinline__ void for_each_piece(const HeldTile& held, const BlockShape& block,
                                               const TilePlace& place, const Body& body) {
  const ImageStrides<channels_last> strides(place.stride, place.height, place.width);
  const int per_piece = block.piece_bytes / static_cast<int>(sizeof(T));
  const int row_lanes = 1 << block.row_lanes_log2, thread = static_cast<int>(threadIdx.x);
  const int first = thread & (row_lanes - 1), slots = static_cast<int>(blockDim.x) >> block.row_lanes_log2;
  const int rows = channels_last ? held.rows : held.rows * block.channels;
  const int pieces_per_column = channels_last ? block.channels / per_piece : 1;
  const int pieces_log2 = 31 - __clz(pieces_per_column);
  for (int slot = thread >> block.row_lanes_log2; slot < rows; slot += slots) {
    const int plane = channels_last ? 0 : held.rows_divisor.quotient(slot), y = slot - plane * held.rows;
    const bool row_inside = static_cast<unsigned>(place.row + y) < static_cast<unsigned>(place.height) &&
                            place.channel + plane < place.channels;
    const int64_t from = (place.channel + plane) * strides.channel + (place.row + y) * strides.row;
    const int to = plane * held.channel_pitch + y * held.row_pitch;
    for (int piece = first; piece < held.pieces; piece += row_lanes) {
      const int x = channels_last ? piece >> pieces_log2 : piece * per_piece,
                c = channels_last ? (piece & (pieces_per_column - 1)) * per_piece : 0;
      const bool inside = row_inside &&
                          static_cast<unsigned>(place.column + x) < static_cast<unsigned>(place.width) &&
                          place.channel + c < place.channels;
      body(to + piece * per_piece, from + (place.column + x) * strides.column + c, channels_last ? c : plane,
           inside);
    }
  }
}

// Starts to copy a part of one sample; the caller commits and waits.
template <class T, bool channels_last>
__device__ __forceinline__ void fill_tile(T* tile, const HeldTile& held, const BlockShape& block,
                                          const T* sample, const TilePlace& place) {
  for_each_piece<T, channels_last>(held, block, place, [&](int to, int64_t from, int, bool inside) {
    copy_piece(tile + to, inside ? sample + from : sample, block.piece_bytes, inside);
  });
}

// The group with the given index along an axis: its first target and its first source position in the tile.
struct Group {
  int target, held;
};
template <int size>
__device__ __forceinline__ Group group_of(const TileAxis& axis, int index) {
  int set = index, interleaved = 0;
  if (axis.target_step > 1) {
    set = index / axis.target_step;
    interleaved = index - set * axis.target_step;
  }
  return {set * size * axis.target_step + interleaved,
          axis.first_held + set * axis.group_advance + interleaved * axis.interleave_advance};
}

// Which taps join the source positions and targets of a thread along one axis, all known to the compiler:
// `kernel` taps, `size` targets, `stride` sources from target to target, or (transposed) as many targets from
// source to source.
template <int kernel_, int stride_, bool transposed_, int size_>
struct Window {
  static constexpr int kernel = kernel_, stride = stride_, size = size_;
  static constexpr bool transposed = transposed_;
  static constexpr int sources =
      transposed ? size / stride + (kernel - 1) / stride : (size - 1) * stride + kernel;

  // The tap that joins a source and a target, and whether there is one.
  static constexpr __host__ __device__ int tap(int source, int target) {
    return transposed ? target - stride * source + kernel - 1 : source - stride * target;
  }
  static constexpr __host__ __device__ bool meet(int source, int target) {
    return tap(source, target) >= 0 && tap(source, target) < kernel;
  }
  // The source that a tap joins with a target, and whether there is one.
  static constexpr __host__ __device__ int source(int tap, int target) {
    return transposed ? (target - tap + kernel - 1) / stride : stride * target + tap;
  }
  static constexpr __host__ __device__ bool has_source(int tap, int target) {
    return !transposed || (target - tap + kernel - 1) % stride == 0;
  }
};

// `count` columns of a row, `step` elements apart.
template <int count, int lanes, class T>
__device__ __forceinline__ void load_columns(float (&to)[count][lanes], const T* from, int step) {
#pragma unroll
  for (int q = 0; q < count; ++q) load_lanes<T, lanes>(to[q], from + q * step);
}

}  // namespace kshot::cuda
