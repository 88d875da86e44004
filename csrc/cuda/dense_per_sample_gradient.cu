// Launch function of the gradients of a dictionary mixed per sample; kernel: dense_per_sample_gradient.cuh.
#include "cuda/dense_per_sample_gradient.cuh"

#include "cuda/column_sums.cuh"
#include "cuda/dense_positions_launch.cuh"

namespace kshot::cuda {
namespace {

constexpr int kTile = 64;  // rows and columns

int64_t column_tiles(const ConvGeometry& geometry) {
  return ceil_div(geometry.taps() * geometry.in_channels, kTile);
}

int64_t tiles(const ConvGeometry& geometry) {
  return ceil_div(geometry.out_channels, kTile) * column_tiles(geometry);
}

}  // namespace

int64_t dense_per_sample_gradient_workspace(const DensePerSampleGradient& args) {
  return tiles(args.geometry) * args.geometry.batch * args.weight.shots * static_cast<int64_t>(sizeof(float));
}

void dense_per_sample_gradient(const DensePerSampleGradient& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const int64_t dots = geometry.batch * args.weight.shots;
  const int64_t element_size = args.dtype == DType::kFloat32 ? 4 : 2;
  PerSampleGradientParameters parameters{};
  parameters.products = position_products(geometry, args.grad, args.input, element_size);
  parameters.copies = args.weight.copies;
  parameters.grad_weight = args.grad_weight;
  parameters.shot_stride = args.weight.shot_stride;
  parameters.out_stride = args.weight.out_stride;
  parameters.tap_stride = args.weight.tap_stride;
  parameters.code = args.weight.code;
  parameters.code_stride = args.weight.code_stride;
  parameters.gate = args.gate.data;
  parameters.gate_stride = args.gate.stride;
  parameters.dots = static_cast<float*>(args.workspace);
  parameters.samples = static_cast<int32_t>(geometry.batch);
  parameters.shots = args.weight.shots;
  parameters.column_tiles = static_cast<int32_t>(column_tiles(geometry));
  constexpr int64_t kLanes = 4;
  parameters.vectors = geometry.in_channels % kLanes == 0 && args.weight.shot_stride % kLanes == 0 &&
                       args.weight.out_stride % kLanes == 0 && args.weight.tap_stride % kLanes == 0 &&
                       is_vector_aligned(args.weight.copies) && is_vector_aligned(args.grad_weight);
  const int64_t blocks = tiles(geometry);
  if (blocks > 0) {
    dispatch_position_tile<kTile, kTile, 4, 2>(args.dtype, args.allow_tf32, [&](auto* type) {
      using Tile = std::remove_pointer_t<decltype(type)>;
      KSHOT_LAUNCH((dense_per_sample_gradient_kernel<Tile>), dim3(static_cast<unsigned>(blocks)),
                   dim3(Tile::Shape::kThreads), PerSampleGradientMemory<Tile>::bytes(parameters.shots),
                   static_cast<cudaStream_t>(stream), parameters);
    });
  }
  if (dots == 0) return;
  JobList<ColumnSumJob> sums;
  sums.jobs[0] = {args.workspace, args.grad_code, static_cast<int>(blocks), static_cast<int>(dots), 1};
  sums.first_block[0] = 0;
  sums.count = 1;
  sums.blocks = static_cast<int>(column_sum_blocks(sums.jobs[0]));
  KSHOT_LAUNCH(column_sum_kernel<float>, dim3(static_cast<unsigned>(sums.blocks)),
               dim3(kSumColumns * kSumRows), 0, static_cast<cudaStream_t>(stream), sums);
}

}  // namespace kshot::cuda
