// Loaders for products whose reduction runs over positions, the outputs' places in all samples or in one:
//
//     sums[o, (t, i)] += sum_p grad[p, o] * input[p at t, i]
//
// Both operands lie with neighbouring channels in memory and so come to shared memory as they are, depth
// outermost, by asynchronous copies. A thread's columns (output channels; taps and input channels) stay the
// same in all chunks, its positions go on by a chunk each time.
#pragma once

#include "cuda/dense_axis.cuh"
#include "cuda/dense_pipeline.cuh"

namespace kshot::cuda {
namespace {

// The part of the kernels' parameters that says what is multiplied.
struct PositionProducts {
  const void *grad, *input;
  int32_t in_height, in_width, in_channels, out_channels;
  int32_t kernel_width;
  int grad_bytes, input_bytes;  // width of one copy
  DensePlaces places;           // forward: all outputs of a sample
};

// Positions of the flat list sample * places + place: `count` of them from a place of a sample on.
struct PositionRange {
  int64_t sample;
  int32_t place, count;
};

template <class Tile>
class GradLoader {
 public:
  using T = typename Tile::T;
  static constexpr int kLead = kCopyLead, kBuffers = kCopyBuffers;

  __device__ __forceinline__ GradLoader(const PositionProducts& products, const PositionRange& range,
                                        int first_row)
      : products_(products), range_(range), first_row_(first_row) {}

  __device__ __forceinline__ void begin(int chunk, T* to) const {
    CopyWidths::with<T>(products_.grad_bytes, [&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value, kLanes = kBytes / static_cast<int>(sizeof(T));
      constexpr int kCopiesPerRow = Shape::kRows / kLanes, kRowsPerPass = Shape::kThreads / kCopiesPerRow;
      const int thread = static_cast<int>(threadIdx.x), lane = thread % kCopiesPerRow * kLanes;
      const bool channel_inside = first_row_ + lane < products_.out_channels;
      const T* grad = static_cast<const T*>(products_.grad);
      const int64_t first = range_.sample * products_.places.count + range_.place;
#pragma unroll kCopiesInARow < kBytes>
      for (int d = thread / kCopiesPerRow; d < Shape::kDepth; d += kRowsPerPass) {
        const int32_t position = chunk * Shape::kDepth + d;
        const bool inside = channel_inside && position < range_.count;
        const int64_t offset = (first + position) * products_.out_channels + first_row_ + lane;
        copy_or_clear<kBytes>(to + d * Tile::Left::kStride + lane, grad + (inside ? offset : 0), inside);
      }
    });
  }
  __device__ __forceinline__ void finish(T*) const {}

 private:
  using Shape = typename Tile::Shape;
  const PositionProducts& products_;
  const PositionRange& range_;
  int first_row_;
};

template <class Tile>
class InputLoader {
 public:
  using T = typename Tile::T;
  static constexpr int kLead = kCopyLead, kBuffers = kCopyBuffers;

  __device__ __forceinline__ InputLoader(const PositionProducts& products, const PositionRange& range,
                                         int first_column)
      : products_(products), range_(range) {
    CopyWidths::with<T>(products_.input_bytes, [&](auto bytes) {
      constexpr int kLanes = decltype(bytes)::value / static_cast<int>(sizeof(T));
      const int32_t column =
          first_column + static_cast<int>(threadIdx.x) % (Shape::kColumns / kLanes) * kLanes;
      const DenseTap tap = tap_of(products_.places, column);
      tap_y_ = tap.y + products_.places.height.first_source;
      tap_x_ = tap.x + products_.places.width.first_source;
      channel_ = column < products_.places.reduction ? tap.channel : -1;
    });
  }

  __device__ __forceinline__ void begin(int chunk, T* to) const {
    CopyWidths::with<T>(products_.input_bytes, [&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value, kLanes = kBytes / static_cast<int>(sizeof(T));
      constexpr int kCopiesPerRow = Shape::kColumns / kLanes, kRowsPerPass = Shape::kThreads / kCopiesPerRow;
      const int thread = static_cast<int>(threadIdx.x), lane = thread % kCopiesPerRow * kLanes;
      const DensePlaces& places = products_.places;
      const T* input = static_cast<const T*>(products_.input);
#pragma unroll kCopiesInARow < kBytes>
      for (int d = thread / kCopiesPerRow; d < Shape::kDepth; d += kRowsPerPass) {
        const int32_t position = chunk * Shape::kDepth + d;
        const DensePlace place = place_of(places, range_.place + position);
        const int32_t y = place.row * places.height.source_step + tap_y_,
                      x = place.column * places.width.source_step + tap_x_;
        const bool inside = channel_ >= 0 && position < range_.count &&
                            static_cast<uint32_t>(y) < static_cast<uint32_t>(products_.in_height) &&
                            static_cast<uint32_t>(x) < static_cast<uint32_t>(products_.in_width);
        const int64_t offset =
            (((range_.sample + place.sample) * products_.in_height + y) * products_.in_width + x) *
                products_.in_channels +
            channel_;
        copy_or_clear<kBytes>(to + d * Tile::Right::kStride + lane, input + (inside ? offset : 0), inside);
      }
    });
  }
  __device__ __forceinline__ void finish(T*) const {}

 private:
  using Shape = typename Tile::Shape;
  const PositionProducts& products_;
  const PositionRange& range_;
  int32_t tap_y_, tap_x_, channel_;
};

template <class Tile>
struct PositionMemory {
  static constexpr int kElement = static_cast<int>(sizeof(typename Tile::T));
  static constexpr int kLeft = kCopyBuffers * Tile::Left::kSize * kElement,
                       kRight = kCopyBuffers * Tile::Right::kSize * kElement;
  // Finished sums take the place of the operands.
  static constexpr int kBytes = kLeft + kRight > kStagingBytes<typename Tile::Shape>
                                    ? kLeft + kRight
                                    : kStagingBytes<typename Tile::Shape>;
};

// The tile of rows (output channels) and columns (taps, input channels) from these on, summed over a range of
// positions, in the staging layout at the head of `memory`; the whole block may read it on return.
template <class Tile>
__device__ __forceinline__ float* sum_positions(const PositionProducts& products, const PositionRange& range,
                                                int first_row, int first_column, unsigned char* memory) {
  using T = typename Tile::T;
  using Shape = typename Tile::Shape;
  GradLoader<Tile> grad(products, range, first_row);
  InputLoader<Tile> input(products, range, first_column);
  Tile tile;
  tile.clear();
  accumulate(tile, (range.count + Shape::kDepth - 1) / Shape::kDepth, grad, input,
             reinterpret_cast<T*>(memory), reinterpret_cast<T*>(memory + PositionMemory<Tile>::kLeft));
  __syncthreads();
  float* staging = reinterpret_cast<float*>(memory);
  tile.store(staging);
  __syncthreads();
  return staging;
}

}  // namespace
}  // namespace kshot::cuda
