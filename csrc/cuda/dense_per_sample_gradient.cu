// Launch function of the gradients of a dictionary mixed per sample; kernel: dense_per_sample_gradient.cuh.
#include "cuda/dense_per_sample_gradient.cuh"

#include <algorithm>

#include "cuda/column_sums.cuh"
#include "cuda/dense_positions_launch.cuh"

namespace kshot::cuda {
namespace {

constexpr int kTile = 64;  // rows and columns

// How samples are cut into parts with sums of their own, and what lies in the workspace.
struct Plan {
  explicit Plan(const DensePerSampleGradient& args) {
    const ConvGeometry& geometry = args.geometry;
    reduction = geometry.taps() * geometry.in_channels;
    column_tiles = ceil_div(reduction, kTile);
    tiles = ceil_div(geometry.out_channels, kTile) * column_tiles;
    dots = geometry.batch * args.weight.shots;
    part_size = args.weight.shots * geometry.out_channels * reduction;
    // Enough blocks for a large device, but two rounds of samples for each.
    constexpr int64_t kBlocks = 256;
    const int64_t rounds = std::max<int64_t>(1, ceil_div(geometry.batch, kHeldSamples));
    const int64_t wanted = std::max<int64_t>(1, std::min(kBlocks / std::max<int64_t>(1, tiles), rounds / 2));
    part_rounds = ceil_div(rounds, wanted);
    parts = ceil_div(rounds, part_rounds);
  }

  // Dot products of tiles, then sums of parts on a 16-byte boundary.
  int64_t parts_offset() const { return ceil_div(tiles * dots, kVectorBytes) * kVectorBytes; }
  int64_t floats() const { return parts_offset() + (parts > 1 ? parts * part_size : 0); }

  int64_t reduction, column_tiles, tiles, dots, part_size, part_rounds, parts;
};

}  // namespace

int64_t dense_per_sample_gradient_workspace(const DensePerSampleGradient& args) {
  return Plan(args).floats() * static_cast<int64_t>(sizeof(float));
}

void dense_per_sample_gradient(const DensePerSampleGradient& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const Plan plan(args);
  const int64_t element_size = args.dtype == DType::kFloat32 ? 4 : 2;
  PerSampleGradientParameters parameters{};
  parameters.products = position_products(geometry, args.grad, args.input, element_size);
  parameters.copies = args.weight.copies;
  parameters.shot_stride = args.weight.shot_stride;
  parameters.out_stride = args.weight.out_stride;
  parameters.tap_stride = static_cast<int32_t>(args.weight.tap_stride);
  if (plan.parts == 1) {
    parameters.sums = args.grad_weight;
    parameters.sums_shot_stride = args.weight.shot_stride;
    parameters.sums_out_stride = args.weight.out_stride;
    parameters.sums_tap_stride = parameters.tap_stride;
  } else {
    parameters.sums = static_cast<float*>(args.workspace) + plan.parts_offset();
    parameters.sums_part_stride = plan.part_size;
    parameters.sums_shot_stride = geometry.out_channels * plan.reduction;
    parameters.sums_out_stride = plan.reduction;
    parameters.sums_tap_stride = static_cast<int32_t>(geometry.in_channels);
  }
  parameters.code = args.weight.code;
  parameters.code_stride = args.weight.code_stride;
  parameters.gate = args.gate.data;
  parameters.gate_stride = args.gate.stride;
  parameters.dots = static_cast<float*>(args.workspace);
  parameters.samples = static_cast<int32_t>(geometry.batch);
  parameters.shots = args.weight.shots;
  parameters.column_tiles = static_cast<int32_t>(plan.column_tiles);
  parameters.part_rounds = static_cast<int32_t>(plan.part_rounds);
  constexpr int64_t kLanes = 4;
  parameters.vectors = geometry.in_channels % kLanes == 0 && args.weight.shot_stride % kLanes == 0 &&
                       args.weight.out_stride % kLanes == 0 && args.weight.tap_stride % kLanes == 0 &&
                       is_vector_aligned(args.weight.copies) && is_vector_aligned(parameters.sums);
  if (plan.tiles > 0) {
    const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.parts));
    dispatch_position_tile<kTile, kTile, 4, 2>(args.dtype, args.allow_tf32, [&](auto* type) {
      using Tile = std::remove_pointer_t<decltype(type)>;
      KSHOT_LAUNCH((dense_per_sample_gradient_kernel<Tile>), grid, dim3(Tile::Shape::kThreads),
                   PerSampleGradientMemory<Tile>::bytes(parameters.shots), static_cast<cudaStream_t>(stream),
                   parameters);
    });
  }
  if (plan.parts > 1) {
    const PartSums sums{parameters.sums,
                        args.grad_weight,
                        args.weight.shot_stride,
                        args.weight.out_stride,
                        args.weight.tap_stride,
                        static_cast<int32_t>(plan.parts),
                        static_cast<int32_t>(plan.part_size),
                        FastDivisor(plan.reduction),
                        FastDivisor(geometry.out_channels),
                        FastDivisor(geometry.in_channels)};
    KSHOT_LAUNCH(add_parts_kernel, dim3(static_cast<unsigned>(ceil_div(plan.part_size, kPartThreads))),
                 dim3(kPartThreads), 0, static_cast<cudaStream_t>(stream), sums);
  }
  if (plan.dots == 0) return;
  JobList<ColumnSumJob> sums;
  sums.jobs[0] = {args.workspace, args.grad_code, static_cast<int>(plan.tiles), static_cast<int>(plan.dots),
                  1};
  sums.first_block[0] = 0;
  sums.count = 1;
  sums.blocks = static_cast<int>(column_sum_blocks(sums.jobs[0]));
  KSHOT_LAUNCH(column_sum_kernel<float>, dim3(static_cast<unsigned>(sums.blocks)),
               dim3(kSumColumns * kSumRows), 0, static_cast<cudaStream_t>(stream), sums);
}

}  // namespace kshot::cuda
