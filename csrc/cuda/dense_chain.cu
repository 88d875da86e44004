// Launches of dense links.
//
// Least bytes: forward the input, the weight and the output once; backward g, y and x twice, since gradients
// of input and weight are two products, and dL/dx once. On top come moments or sums of blocks, written and
// read once more, and from the second cache the left operand of a product for every 64 columns.
#include "cuda/dense_chain.h"

#include "cuda/chain_values.cuh"
#include "cuda/column_sums.cuh"
#include "cuda/dense_gather_launch.cuh"
#include "cuda/dense_links.cuh"
#include "cuda/dense_weight_gradient_launch.cuh"

namespace kshot::cuda {
namespace {

constexpr int64_t kLeastRows = 64;  // of a gather's tile

// Hands out scratch memory, each piece on a 16-byte boundary; without memory it counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<float*>(memory)) {}
  float* floats(int64_t count) {
    float* piece = memory_ ? memory_ + used_ : nullptr;
    used_ += ceil_div(count, 4) * 4;
    return piece;
  }
  int64_t bytes() const { return used_ * static_cast<int64_t>(sizeof(float)); }

 private:
  float* memory_;
  int64_t used_ = 0;
};

int64_t norm_rows(const ChainNorm& norm, const ConvGeometry& geometry) {
  return varies_by_sample(norm) ? geometry.batch : 1;
}

// Row blocks of the smallest tiles over so many places of a sample.
int64_t most_row_blocks(const ChainNorm& norm, int64_t samples, int64_t places) {
  return varies_by_sample(norm) ? samples * ceil_div(places, kLeastRows)
                                : ceil_div(samples * places, kLeastRows);
}

struct ForwardMemory {
  ForwardMemory(const ChainedDense& args, Arena arena)
      : scales(arena.floats(norm_rows(args.norm, args.geometry) * args.geometry.in_channels)),
        shifts(arena.floats(norm_rows(args.norm, args.geometry) * args.geometry.in_channels)) {
    const ConvGeometry& geometry = args.geometry;
    const int64_t blocks =
        args.mean ? most_row_blocks(args.norm, geometry.batch, geometry.output_pixels()) : 0;
    moments = arena.floats(blocks * 2 * geometry.out_channels);
    counts = arena.floats(blocks);
    bytes = arena.bytes();
  }
  float *scales, *shifts, *moments, *counts;
  int64_t bytes;
};

struct BackwardMemory {
  BackwardMemory(const ChainedDenseBackward& args, Arena arena) {
    const ConvGeometry& geometry = args.geometry;
    const int64_t norm = norm_rows(args.norm, geometry) * geometry.in_channels;
    scales = arena.floats(norm);
    shifts = arena.floats(norm);
    for (float** values : {&means, &slopes, &constants}) *values = arena.floats(geometry.out_channels);
    const int64_t classes = geometry.height.stride * geometry.width.stride;
    sums = arena.floats(classes * 2 * geometry.in_channels *
                        most_row_blocks(args.norm, geometry.batch, geometry.input_pixels()));
    weight = arena.floats(weight_gradient_workspace(geometry) / static_cast<int64_t>(sizeof(float)));
    bytes = arena.bytes();
  }
  float *scales, *shifts, *means, *slopes, *constants, *sums, *weight;
  int64_t bytes;
};

void add_norm_sums(const ChainedDenseBackward& args, const float* sums, int64_t row_blocks, void* stream) {
  const int64_t samples = norm_rows(args.norm, args.geometry);
  if (!args.norm_sums || samples == 0) return;
  const ColumnSumJob job{sums, args.norm_sums, static_cast<int>(row_blocks / samples),
                         static_cast<int>(2 * args.geometry.in_channels), static_cast<int>(samples)};
  const auto launch = [&](const JobList<ColumnSumJob>& list) {
    KSHOT_LAUNCH(column_sum_kernel<float>, dim3(list.blocks), dim3(kSumColumns * kSumRows), 0,
                 static_cast<cudaStream_t>(stream), list);
  };
  JobBatch<JobList<ColumnSumJob>, decltype(launch)> batch(launch);
  batch.add(job, column_sum_blocks(job));
  batch.flush();
}

void link_input_gradient(const ChainedDenseBackward& args, const DenseGradientMap& gradient, float* sums,
                         void* stream) {
  BackwardLinkParameters parameters{};
  static_cast<GatherParameters&>(parameters) =
      backward_parameters(args.geometry, {args.gradient.grad, args.geometry.out_channels}, args.grad_input);
  parameters.per_sample = varies_by_sample(args.norm);
  parameters.gradient = gradient;
  parameters.norm = args.norm;
  parameters.input = args.input;
  parameters.sums = sums;
  const int64_t row_blocks =
      launch_gather<true, BackwardDenseLink>(args.dtype, args.allow_tf32, parameters, args.geometry,
                                             args.weight, {nullptr, 0}, {nullptr, 0}, stream);
  add_norm_sums(args, sums, row_blocks, stream);
}

void link_weight_gradient(const ChainedDenseBackward& args, const DenseGradientMap& gradient,
                          const BackwardMemory& memory, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const int64_t rows = norm_rows(args.norm, geometry), element_size = args.dtype == DType::kFloat32 ? 4 : 2;
  chain_norm_map({geometry.in_channels, rows, args.norm, memory.scales, memory.shifts}, stream);
  LinkProducts products{};
  static_cast<PositionProducts&>(products) =
      position_products(geometry, {args.gradient.grad, geometry.out_channels},
                        {args.input, geometry.in_channels}, element_size);
  products.grad_bytes =
      std::min(products.grad_bytes, CopyWidths::widest(gradient.output, geometry.out_channels, element_size));
  products.gradient = gradient;
  products.activation = args.norm.activation;
  products.scales = memory.scales;
  products.shifts = memory.shifts;
  products.norm_stride = varies_by_sample(args.norm) ? geometry.in_channels : 0;
  launch_weight_gradient<LinkPositions>(
      {args.dtype, args.allow_tf32, geometry, products.grad, products.input, args.grad_weight, memory.weight},
      products, stream);
}

}  // namespace

bool chained_dense_serves(const ChainNorm& norm, const ConvGeometry& geometry) {
  return !varies_by_sample(norm) || (geometry.height.stride == 1 && geometry.width.stride == 1);
}

int64_t chained_dense_workspace(const ChainedDense& args) {
  return ForwardMemory(args, Arena(nullptr)).bytes;
}

void chained_dense(const ChainedDense& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const ForwardMemory memory(args, Arena(args.workspace));
  chain_norm_map(
      {geometry.in_channels, norm_rows(args.norm, geometry), args.norm, memory.scales, memory.shifts},
      stream);
  ForwardLinkParameters parameters{};
  static_cast<GatherParameters&>(parameters) =
      forward_parameters(geometry, {args.input, geometry.in_channels}, args.output);
  parameters.per_sample = varies_by_sample(args.norm);
  parameters.activation = args.norm.activation;
  parameters.scales = memory.scales;
  parameters.shifts = memory.shifts;
  parameters.norm_stride = parameters.per_sample ? geometry.in_channels : 0;
  parameters.moments = args.mean ? memory.moments : nullptr;
  parameters.counts = memory.counts;
  const int64_t row_blocks = launch_gather<false, ForwardDenseLink>(
      args.dtype, args.allow_tf32, parameters, geometry, args.weight, {nullptr, 0}, {nullptr, 0}, stream);
  if (!args.mean) return;
  launch_join_moments<float>(StoredCounts{memory.counts}, static_cast<int>(geometry.out_channels),
                             static_cast<int>(row_blocks), memory.moments, args.mean, args.variance,
                             static_cast<cudaStream_t>(stream));
}

int64_t chained_dense_backward_workspace(const ChainedDenseBackward& args) {
  return BackwardMemory(args, Arena(nullptr)).bytes;
}

void chained_dense_backward(const ChainedDenseBackward& args, void* stream) {
  const BackwardMemory memory(args, Arena(args.workspace));
  chain_gradient_map(
      {args.geometry.out_channels, args.gradient, memory.means, memory.slopes, memory.constants}, stream);
  const DenseGradientMap gradient{args.gradient.output, memory.means, memory.slopes, memory.constants};
  if (args.grad_input) link_input_gradient(args, gradient, memory.sums, stream);
  if (args.grad_weight) link_weight_gradient(args, gradient, memory, stream);
}

}  // namespace kshot::cuda
