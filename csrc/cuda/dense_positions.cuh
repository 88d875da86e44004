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
  Pixels<void> grad, input;
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
  static constexpr bool kMaps = false;

  __device__ __forceinline__ GradLoader(const PositionProducts& products, const PositionRange& range,
                                        int first_row)
      : products_(products), range_(range), first_row_(first_row) {}

  __device__ __forceinline__ void begin(int chunk, T* to) const {
    const T* grad = static_cast<const T*>(products_.grad.data);
    for_each_copy(chunk, [&](auto bytes, int at, int64_t from, int, bool inside) {
      copy_or_clear<decltype(bytes)::value>(to + at, grad + from, inside);
    });
  }
  __device__ __forceinline__ void finish(T*) const {}

 protected:
  using Shape = typename Tile::Shape;

  // Calls body(bytes of a copy as a constant, element of the chunk's layout, element of the tensor or 0, its
  // channel, whether it is inside) for the copies of a thread, which share their channels.
  template <class Body>
  __device__ __forceinline__ void for_each_copy(int chunk, const Body& body) const {
    CopyWidths::with<T>(products_.grad_bytes, [&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value, kLanes = kBytes / static_cast<int>(sizeof(T));
      constexpr int kCopiesPerRow = Shape::kRows / kLanes, kRowsPerPass = Shape::kThreads / kCopiesPerRow;
      const int thread = static_cast<int>(threadIdx.x), lane = thread % kCopiesPerRow * kLanes;
      const bool channel_inside = first_row_ + lane < products_.out_channels;
      const int64_t first = range_.sample * products_.places.count + range_.place;
#pragma unroll kCopiesInARow < kBytes>
      for (int d = thread / kCopiesPerRow; d < Shape::kDepth; d += kRowsPerPass) {
        const int32_t position = chunk * Shape::kDepth + d;
        const bool inside = channel_inside && position < range_.count;
        const int64_t offset = (first + position) * products_.grad.stride + first_row_ + lane;
        body(bytes, d * Tile::Left::kStride + lane, inside ? offset : 0, first_row_ + lane, inside);
      }
    });
  }

 private:
  const PositionProducts& products_;
  const PositionRange& range_;
  int first_row_;
};

template <class Tile>
class InputLoader {
 public:
  using T = typename Tile::T;
  static constexpr int kLead = kCopyLead, kBuffers = kCopyBuffers;
  static constexpr bool kMaps = false;

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
    const T* input = static_cast<const T*>(products_.input.data);
    for_each_copy(chunk, [&](auto bytes, int at, int64_t from, int64_t, bool inside) {
      copy_or_clear<decltype(bytes)::value>(to + at, input + from, inside);
    });
  }
  __device__ __forceinline__ void finish(T*) const {}

 protected:
  using Shape = typename Tile::Shape;

  // As GradLoader's; the body gets the sample instead of the channel, which is channel() throughout.
  template <class Body>
  __device__ __forceinline__ void for_each_copy(int chunk, const Body& body) const {
    CopyWidths::with<T>(products_.input_bytes, [&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value, kLanes = kBytes / static_cast<int>(sizeof(T));
      constexpr int kCopiesPerRow = Shape::kColumns / kLanes, kRowsPerPass = Shape::kThreads / kCopiesPerRow;
      const int thread = static_cast<int>(threadIdx.x), lane = thread % kCopiesPerRow * kLanes;
      const DensePlaces& places = products_.places;
#pragma unroll kCopiesInARow < kBytes>
      for (int d = thread / kCopiesPerRow; d < Shape::kDepth; d += kRowsPerPass) {
        const int32_t position = chunk * Shape::kDepth + d;
        const DensePlace place = place_of(places, range_.place + position);
        const int32_t y = place.row * places.height.source_step + tap_y_,
                      x = place.column * places.width.source_step + tap_x_;
        const bool inside = channel_ >= 0 && position < range_.count &&
                            static_cast<uint32_t>(y) < static_cast<uint32_t>(products_.in_height) &&
                            static_cast<uint32_t>(x) < static_cast<uint32_t>(products_.in_width);
        const int64_t sample = range_.sample + place.sample;
        const int64_t offset =
            ((sample * products_.in_height + y) * products_.in_width + x) * products_.input.stride + channel_;
        body(bytes, d * Tile::Right::kStride + lane, inside ? offset : 0, sample, inside);
      }
    });
  }
  __device__ __forceinline__ int32_t channel() const { return channel_; }

 private:
  const PositionProducts& products_;
  const PositionRange& range_;
  int32_t tap_y_, tap_x_, channel_;
};

// What a plain gradient of the weight loads; links of a chain (dense_links.cuh) map both.
struct PlainPositions {
  using Parameters = PositionProducts;
  static constexpr int kGrads = 1;

  template <class Tile>
  static __device__ __forceinline__ GradLoader<Tile> grad_loader(const Parameters& products,
                                                                 const PositionRange& range, int first_row,
                                                                 int) {
    return GradLoader<Tile>(products, range, first_row);
  }
  template <class Tile>
  static __device__ __forceinline__ InputLoader<Tile> input_loader(const Parameters& products,
                                                                   const PositionRange& range,
                                                                   int first_column) {
    return InputLoader<Tile>(products, range, first_column);
  }
};

// `grads`: images that come as the left operand.
template <class Tile, int grads = 1>
struct PositionMemory {
  static constexpr int kElement = static_cast<int>(sizeof(typename Tile::T));
  static constexpr int kLeft = kCopyBuffers * Tile::Left::kSize * kElement,
                       kRight = kCopyBuffers * Tile::Right::kSize * kElement;
  // A second image follows both operands; finished sums take the place of all.
  static constexpr int kSecond = (kLeft + kRight) / kElement;  // elements from the left operand
  static constexpr int kAll = grads * kLeft + kRight;
  static constexpr int kBytes =
      kAll > kStagingBytes<typename Tile::Shape> ? kAll : kStagingBytes<typename Tile::Shape>;
};

// The tile of rows (output channels) and columns (taps, input channels) from these on, summed over a range of
// positions, in the staging layout at the head of `memory`; the whole block may read it on return.
template <class Tile, class Positions = PlainPositions>
__device__ __forceinline__ float* sum_positions(const typename Positions::Parameters& products,
                                                const PositionRange& range, int first_row, int first_column,
                                                unsigned char* memory) {
  using T = typename Tile::T;
  using Shape = typename Tile::Shape;
  auto grad = Positions::template grad_loader<Tile>(products, range, first_row,
                                                    PositionMemory<Tile, Positions::kGrads>::kSecond);
  auto input = Positions::template input_loader<Tile>(products, range, first_column);
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
