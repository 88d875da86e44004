// Launches of depthwise links: how they are cut, and the sums over their blocks.
//
// Least bytes: forward the input once and the output once; backward g, y and x once, and dL/dx once. On top
// come the margins between tiles, and for each block its moments or sums, written and read once more.
#include "cuda/depthwise_chain.h"

#include <stdexcept>

#include "cuda/chain_values.cuh"
#include "cuda/depthwise_partial_sums.cuh"
#include "cuda/depthwise_taps.cuh"
#include "cuda/moments.cuh"

namespace kshot::cuda {
namespace {

struct LinkPlan {
  TilePlan tiles;
  SampleShare share;
  ChainLaunch launch;
  int64_t pieces;  // of the batch: samples of a block, by tiles
};

struct LinkRequest {
  DType dtype;
  const ConvGeometry& geometry;
  const DepthwiseWeight& weight;
  bool backward, varies;  // varies: whether a block may take one sample only, or holds the dictionary
  const void *source, *target;
};

int bytes_of(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : 2;
}

std::optional<LinkPlan> plan_link(const LinkRequest& request) {
  const ConvGeometry& geometry = request.geometry;
  const bool backward = request.backward,
             turned = backward && geometry.height.stride == 1 && geometry.width.stride == 1;
  const GatherAxis height = backward ? input_gradient_axis(geometry.height, turned)
                                     : forward_axis(geometry.height),
                   width =
                       backward ? input_gradient_axis(geometry.width, turned) : forward_axis(geometry.width);
  const std::optional<WindowShape> window = window_of(height, width);
  if (!window || request.dtype == DType::kFloat64) return std::nullopt;
  const int bytes = bytes_of(request.dtype), taps = window->kernel * window->kernel,
            lanes = backward ? 1 : lanes_of_thread(bytes, window->kernel), source_tiles = backward ? 2 : 1;
  const int rows = backward ? backward_rows(window->kernel) : kGroupSize,
            columns = backward ? backward_columns(window->kernel) : kGroupSize;
  const int64_t held = tap_pitch(taps) + (backward ? kBackwardValues : kForwardValues),
                dictionary = request.weight.shots * taps,
                // Sums or moments are written and read; a backward link moves twice the tensors.
      beside = backward ? (dictionary + 8 * (taps + 2) / bytes) / 2 : dictionary + 16 / bytes;
  const std::optional<TilePlan> tiles = plan_tiles({Layout::kChannelsLast,
                                                    geometry.batch,
                                                    geometry.in_channels,
                                                    height,
                                                    width,
                                                    bytes,
                                                    rows,
                                                    columns,
                                                    lanes,
                                                    false,
                                                    held,
                                                    beside,
                                                    {request.source, geometry.in_channels},
                                                    {request.target, geometry.in_channels},
                                                    source_tiles,
                                                    true});
  if (!tiles) return std::nullopt;
  const BlockShape& block = tiles->block;
  // What threads join at the end takes the place of the tiles.
  const int64_t positions = int64_t{1} << block.position_lanes_log2,
                joined = 4 * (backward ? block.channels * tap_pitch(taps + 2)
                                       : (2 * block.channels + 1) * positions);
  const int64_t shared = std::max<int64_t>(shared_bytes(*tiles, bytes, held, source_tiles), joined);
  LinkPlan plan{*tiles, {1, false, shared}, {*window, 0, 0}, 0};
  if (!backward || !request.varies) {
    plan.share = share_samples(*tiles, beside, dictionary * block.channels * bytes, request.varies, shared);
  }
  plan.pieces = ceil_div(geometry.batch, plan.share.samples) * tiles->tiles();
  plan.launch.blocks = static_cast<unsigned>(plan.pieces * tiles->channel_blocks);
  plan.launch.shared = plan.share.shared;
  return plan;
}

// With a geometry that chained_depthwise_serves.
LinkPlan plan_of(const ChainedDepthwise& args) {
  const auto plan = plan_link({args.dtype, args.geometry, args.weight, false, varies_by_sample(args.weight),
                               args.input, args.output});
  if (!plan) throw std::invalid_argument("no depthwise link of CUDA serves this geometry");
  return *plan;
}

bool varies_by_sample(const ChainedDepthwiseBackward& args) {
  return args.per_sample || varies_by_sample(args.weight) || varies_by_sample(args.norm);
}

LinkPlan plan_of(const ChainedDepthwiseBackward& args) {
  // Both sources come in pieces of one size.
  const auto address =
      reinterpret_cast<uintptr_t>(args.gradient.grad) | reinterpret_cast<uintptr_t>(args.gradient.output);
  const auto plan = plan_link({args.dtype, args.geometry, args.weight, true, varies_by_sample(args),
                               reinterpret_cast<const void*>(address), args.grad_input});
  if (!plan) throw std::invalid_argument("no depthwise link of CUDA serves this geometry");
  return *plan;
}

TiledGather gather_of(const LinkPlan& plan, const DepthwiseWeight& weight, bool turned, const void* source,
                      void* target) {
  return {
      plan.tiles, plan.share.samples, plan.share.holds_dictionary, false, turned, weight, source, nullptr, 0,
      target};
}

// Sums over blocks of what they left for weight and norm, each in as many groups as have sums of their own.
void add_partial_sums(const ChainedDepthwiseBackward& args, const LinkPlan* plan, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  DepthwiseWeightGradient sums{};
  sums.dtype = args.dtype;
  sums.geometry = geometry;
  sums.workspace = args.workspace;
  sums.sample_stride = geometry.in_channels * geometry.taps();
  sums.channel_stride = geometry.taps();
  sums.tap_stride = 1;
  const auto add = [&](bool per_sample, float* weight, float* norm) {
    if (!weight && !norm) return;
    sums.grad_weight = weight;
    sums.grad_bias = norm;
    const int64_t groups = per_sample ? geometry.batch : 1,
                  pieces = plan ? plan->pieces / std::max<int64_t>(groups, 1) : 0;
    launch_partial_sums(sums, {groups, pieces, pieces}, 2, stream);
  };
  const bool norm_varies = varies_by_sample(args.norm);
  if (norm_varies == args.per_sample) return add(norm_varies, args.grad_weight, args.norm_sums);
  add(args.per_sample, args.grad_weight, nullptr);
  add(norm_varies, nullptr, args.norm_sums);
}

}  // namespace

bool chained_depthwise_serves(DType dtype, const ConvGeometry& geometry) {
  const DepthwiseWeight weight{};
  return plan_link({dtype, geometry, weight, false, false, nullptr, nullptr}) &&
         plan_link({dtype, geometry, weight, true, false, nullptr, nullptr});
}

int64_t chained_depthwise_workspace(const ChainedDepthwise& args) {
  if (!args.mean || args.geometry.batch == 0) return 0;
  return plan_of(args).pieces * (2 * args.geometry.in_channels + 1) * static_cast<int64_t>(sizeof(float));
}

void chained_depthwise(const ChainedDepthwise& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const int channels = static_cast<int>(geometry.in_channels);
  int64_t pieces = 0;
  ChainedGather gather{};
  gather.moments = args.mean ? static_cast<float*>(args.workspace) : nullptr;
  if (geometry.batch > 0) {
    const LinkPlan plan = plan_of(args);
    pieces = plan.pieces;
    static_cast<TiledGather&>(gather) = gather_of(plan, args.weight, false, args.input, args.output);
    const int64_t lanes = lanes_of_thread(bytes_of(args.dtype), plan.launch.window.kernel);
    gather.whole_lanes =
        channels % lanes == 0 &&
        reinterpret_cast<uintptr_t>(args.output) % static_cast<size_t>(lanes * bytes_of(args.dtype)) == 0;
    gather.norm = args.norm;
    gather.counts = gather.moments + pieces * 2 * channels;
    if (args.dtype == DType::kFloat32) launch_chained_float32(gather, plan.launch, stream);
    if (args.dtype == DType::kBFloat16) launch_chained_bfloat16(gather, plan.launch, stream);
    if (args.dtype == DType::kFloat16) launch_chained_float16(gather, plan.launch, stream);
  }
  if (!args.mean) return;
  launch_join_moments<float>(StoredCounts{gather.counts}, channels, static_cast<int>(pieces), gather.moments,
                             args.mean, args.variance, static_cast<cudaStream_t>(stream));
}

int64_t chained_depthwise_backward_workspace(const ChainedDepthwiseBackward& args) {
  if (args.geometry.batch == 0) return 0;
  return plan_of(args).pieces * args.geometry.in_channels * (args.geometry.taps() + 2) *
         static_cast<int64_t>(sizeof(float));
}

void chained_depthwise_backward(const ChainedDepthwiseBackward& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  if (geometry.batch == 0) return add_partial_sums(args, nullptr, stream);
  const LinkPlan plan = plan_of(args);
  const bool turned = geometry.height.stride == 1 && geometry.width.stride == 1;
  ChainedGatherBackward gather{};
  static_cast<TiledGather&>(gather) =
      gather_of(plan, args.weight, turned, args.gradient.grad, args.grad_input);
  gather.norm = args.norm;
  gather.gradient = args.gradient;
  gather.input = args.input;
  gather.partial = static_cast<float*>(args.workspace);
  if (args.dtype == DType::kFloat32) launch_chained_backward_float32(gather, plan.launch, stream);
  if (args.dtype == DType::kBFloat16) launch_chained_backward_bfloat16(gather, plan.launch, stream);
  if (args.dtype == DType::kFloat16) launch_chained_backward_float16(gather, plan.launch, stream);
  add_partial_sums(args, &plan, stream);
}

}  // namespace kshot::cuda
