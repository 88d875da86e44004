// Gradient of an effective weight that the batch shares:
//
//     gradient[o, t, i] = sum_{n, p} grad[n, p, o] * input[n, p at t, i]
//
// A block owns kRows output channels by kColumns pairs (t, i) and one of `splits` stretches of the positions,
// whose sums go to the workspace; a second kernel adds the stretches in order. How positions are cut depends
// on the sizes alone. Bound by the products; small weights by the bytes of grad and input, which blocks
// of one stretch share through the L2 cache.
#pragma once

#include "cuda/dense_positions.cuh"

namespace kshot::cuda {
namespace {

template <class Positions>
struct WeightGradientParameters {
  typename Positions::Parameters products;
  float* sums;  // [splits, out_channels, reduction]
  int64_t positions, stretch;
  int32_t row_tiles, column_tiles;
  int sums_bytes;  // width of one store of them
};

template <class Tile, class Positions>
__global__ void __launch_bounds__(Tile::Shape::kThreads, 2)
    dense_weight_gradient_kernel(const WeightGradientParameters<Positions> parameters) {
  using Shape = typename Tile::Shape;
  KSHOT_DYNAMIC_SHARED(unsigned char, memory);
  const typename Positions::Parameters& products = parameters.products;
  // Blocks of one stretch run side by side.
  const int32_t tiles = parameters.row_tiles * parameters.column_tiles;
  const int32_t split = static_cast<int32_t>(blockIdx.x) / tiles,
                tile = static_cast<int32_t>(blockIdx.x) - split * tiles;
  const int first_row = tile / parameters.column_tiles * Shape::kRows,
            first_column = tile % parameters.column_tiles * Shape::kColumns;
  const int64_t begin = split * parameters.stretch, end = begin + parameters.stretch < parameters.positions
                                                              ? begin + parameters.stretch
                                                              : parameters.positions;
  const PositionRange range{begin / products.places.count,
                            static_cast<int32_t>(begin % products.places.count),
                            static_cast<int32_t>(end - begin)};
  const float* staging = sum_positions<Tile, Positions>(products, range, first_row, first_column, memory);

  StoreWidths::with<float>(parameters.sums_bytes, [&](auto bytes) {
    constexpr int kLanes = decltype(bytes)::value / static_cast<int>(sizeof(float)),
                  kStoresPerRow = Shape::kColumns / kLanes, kRowsPerPass = Shape::kThreads / kStoresPerRow;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kStoresPerRow * kLanes;
    const int32_t column = first_column + lane;
    if (column >= products.places.reduction) return;
#pragma unroll 1
    for (int r = thread / kStoresPerRow; r < Shape::kRows && first_row + r < products.out_channels;
         r += kRowsPerPass) {
      float values[kLanes];
      load_vector<float, kLanes>(values, staging + r * kStagingStride<Shape> + lane);
      const int64_t row = static_cast<int64_t>(split) * products.out_channels + first_row + r;
      store_vector<float, kLanes>(parameters.sums + row * products.places.reduction + column, values);
    }
  });
}

// to[e] = sum_s from[s, e] for e < size, one thread an element.
constexpr int kAddThreads = 256;
__global__ void __launch_bounds__(kAddThreads)
    add_stretches_kernel(const float* from, float* to, int64_t size, int32_t splits) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kAddThreads + threadIdx.x;
  if (e >= size) return;
  float sum = 0.0f;
#pragma unroll 4
  for (int s = 0; s < splits; ++s) sum += from[s * size + e];
  to[e] = sum;
}

}  // namespace
}  // namespace kshot::cuda
