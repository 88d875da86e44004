// Launch function of the shared weight's gradient; kernels: dense_weight_gradient.cuh.
#include "cuda/dense_weight_gradient.cuh"

#include <algorithm>

#include "cuda/dense_positions_launch.cuh"

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

int64_t gradient_size(const ConvGeometry& geometry) {
  return geometry.out_channels * geometry.taps() * geometry.in_channels;
}

}  // namespace

int64_t dense_weight_gradient_workspace(const DenseWeightGradient& args) {
  const Stretches stretches(args.geometry);
  if (stretches.count == 1) return 0;
  return stretches.count * gradient_size(args.geometry) * static_cast<int64_t>(sizeof(float));
}

void dense_weight_gradient(const DenseWeightGradient& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const int64_t size = gradient_size(geometry);
  if (size == 0) return;
  const Stretches stretches(geometry);
  const int64_t element_size = args.dtype == DType::kFloat32 ? 4 : 2;
  WeightGradientParameters parameters{};
  parameters.products = position_products(geometry, args.grad, args.input, element_size);
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
    KSHOT_LAUNCH((dense_weight_gradient_kernel<Tile>), grid, dim3(Tile::Shape::kThreads),
                 PositionMemory<Tile>::kBytes, static_cast<cudaStream_t>(stream), parameters);
  });
  if (stretches.count > 1) {
    KSHOT_LAUNCH(add_stretches_kernel, dim3(static_cast<unsigned>(ceil_div(size, kAddThreads))),
                 dim3(kAddThreads), 0, static_cast<cudaStream_t>(stream), parameters.sums, args.gradient,
                 size, static_cast<int32_t>(stretches.count));
  }
}

}  // namespace kshot::cuda
