// Cuts the positions of a shared weight's gradient into stretches and launches its kernels
// (dense_weight_gradient.cuh).
#pragma once

#include <algorithm>

#include "cuda/dense_positions_launch.cuh"
#include "cuda/dense_weight_gradient.cuh"

namespace kshot::cuda {
namespace {

constexpr int kTile = 64;  // rows and columns

// How positions are cut into stretches with sums of their own.
struct Stretches {
  explicit Stretches(const ConvGeometry& geometry) {
    // Enough blocks for a large device, but no stretch so short that its sums cost more than its products.
    constexpr int64_t kBlocks = 512, kLeastPositions = 256;
    positions = geometry.batch * geometry.height.output * geometry.width.output;
    row_tiles = ceil_div(geometry.out_channels, kTile);
    column_tiles = ceil_div(geometry.taps() * geometry.in_channels, kTile);
    const int64_t tiles = std::max<int64_t>(1, row_tiles * column_tiles);
    const int64_t wanted = std::max<int64_t>(1, std::min(kBlocks / tiles, positions / kLeastPositions));
    // Whole chunks; at most as many positions as 32 bits count.
    constexpr int64_t kMostPositions = 1 << 30, kChunk = 32;
    length = std::min(std::max<int64_t>(1, ceil_div(ceil_div(positions, wanted), kChunk)) * kChunk,
                      kMostPositions);
    count = std::max<int64_t>(1, ceil_div(positions, length));
  }

  int64_t positions, row_tiles, column_tiles, length, count;
};

inline int64_t gradient_size(const ConvGeometry& geometry) {
  return geometry.out_channels * geometry.taps() * geometry.in_channels;
}

inline int64_t weight_gradient_workspace(const ConvGeometry& geometry) {
  const Stretches stretches(geometry);
  if (stretches.count == 1) return 0;
  return stretches.count * gradient_size(geometry) * static_cast<int64_t>(sizeof(float));
}

template <class Positions>
void launch_weight_gradient(const DenseWeightGradient& args, const typename Positions::Parameters& products,
                            void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const int64_t size = gradient_size(geometry);
  if (size == 0) return;
  const Stretches stretches(geometry);
  WeightGradientParameters<Positions> parameters{};
  parameters.products = products;
  parameters.sums = stretches.count == 1 ? args.gradient : static_cast<float*>(args.workspace);
  parameters.positions = stretches.positions;
  parameters.stretch = stretches.length;
  parameters.row_tiles = static_cast<int32_t>(stretches.row_tiles);
  parameters.column_tiles = static_cast<int32_t>(stretches.column_tiles);
  parameters.sums_bytes =
      StoreWidths::widest(parameters.sums, parameters.products.places.reduction, sizeof(float));
  const dim3 grid(static_cast<unsigned>(stretches.count * stretches.row_tiles * stretches.column_tiles));
  dispatch_position_tile<kTile, kTile, 2, 2>(args.dtype, args.allow_tf32, [&](auto* type) {
    using Tile = std::remove_pointer_t<decltype(type)>;
    KSHOT_LAUNCH((dense_weight_gradient_kernel<Tile, Positions>), grid, dim3(Tile::Shape::kThreads),
                 (PositionMemory<Tile, Positions::kGrads>::kBytes), static_cast<cudaStream_t>(stream),
                 parameters);
  });
  if (stretches.count > 1) {
    KSHOT_LAUNCH(add_stretches_kernel, dim3(static_cast<unsigned>(ceil_div(size, kAddThreads))),
                 dim3(kAddThreads), 0, static_cast<cudaStream_t>(stream), parameters.sums, args.gradient,
                 size, static_cast<int32_t>(stretches.count));
  }
}

}  // namespace
}  // namespace kshot::cuda
