// The launches of depthwise convolution: tiled kernels where they take the geometry, direct ones elsewhere.
#include "cuda/depthwise_conv2d.h"

#include "cuda/depthwise_direct.h"
#include "cuda/depthwise_gather.h"
#include "cuda/depthwise_partial_sums.cuh"
#include "cuda/depthwise_weight_gradient.h"

namespace kshot::cuda {
namespace {

bool tiled_gather(const DepthwiseGather& args, void* stream) {
  const std::optional<WindowShape> window = window_of(args.height, args.width);
  if (!window) return false;
  switch (args.dtype) {
    case DType::kFloat32:
      return launch_gather_float32(args, *window, stream);
    case DType::kBFloat16:
      return launch_gather_bfloat16(args, *window, stream);
    case DType::kFloat16:
      return launch_gather_float16(args, *window, stream);
    default:
      return false;
  }
}

void gather(const DepthwiseGather& args, void* stream) {
  if (args.batch * args.channels * args.height.target * args.width.target == 0) return;
  if (!tiled_gather(args, stream)) launch_direct_gather(args, stream);
}

int64_t element_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// How a gradient of the weight is to be made.
struct WeightGradientPlan {
  std::optional<TilePlan> tiles;  // none: directly
  WindowShape window;
  WeightGradientPieces pieces;
};

// As many pieces as keep a large device busy, but few enough for their partial sums to be few beside the
// images.
WeightGradientPieces tiled_pieces(const DepthwiseWeightGradient& args, const TilePlan& tiles) {
  const ConvGeometry& geometry = args.geometry;
  const int64_t groups = args.per_sample ? geometry.batch : 1,
                items = (args.per_sample ? 1 : geometry.batch) * tiles.tiles();
  const int64_t images =
      geometry.height.input * geometry.width.input + geometry.height.output * geometry.width.output;
  const int64_t image_bytes = ceil_div(images * element_bytes(args.dtype), tiles.tiles()) * items,
                partial_bytes = (geometry.taps() + 1) * 2 * static_cast<int64_t>(sizeof(float));
  const int64_t enough = ceil_div(2 * kManyBlocks, tiles.channel_blocks * groups),
                few = std::max<int64_t>(1, image_bytes / (20 * partial_bytes));
  return {groups, std::min({enough, few, items}), items};
}

WeightGradientPlan plan_of(const DepthwiseWeightGradient& args) {
  const ConvGeometry& geometry = args.geometry;
  const GatherAxis height = forward_axis(geometry.height), width = forward_axis(geometry.width);
  const std::optional<WindowShape> window = window_of(height, width);
  if (window && args.dtype != DType::kFloat64) {
    const bool channels_last = args.layout == Layout::kChannelsLast;
    const int bytes = static_cast<int>(element_bytes(args.dtype));
    const TileRequest request{args.layout,
                              geometry.batch,
                              geometry.in_channels,
                              height,
                              width,
                              bytes,
                              channels_last ? 4 : 8,
                              channels_last ? 4 : 1,
                              channels_last ? lanes_of_thread(bytes, window->kernel) : 1,
                              true,
                              (geometry.taps() + 1) | 1,
                              0,
                              args.input,
                              args.grad_output};
    if (const std::optional<TilePlan> tiles = plan_tiles(request)) {
      return {tiles, *window, tiled_pieces(args, *tiles)};
    }
  }
  return {std::nullopt, {}, direct_gradient_pieces(args)};
}

bool has_positions(const DepthwiseWeightGradient& args) {
  const ConvGeometry& geometry = args.geometry;
  return geometry.batch * geometry.in_channels * geometry.height.output * geometry.width.output > 0;
}

}  // namespace

void depthwise_conv2d(const DepthwiseConv2d& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  gather({args.dtype, args.layout, geometry.batch, geometry.in_channels, forward_axis(geometry.height),
          forward_axis(geometry.width), false, args.weight, args.input, args.bias, args.bias_stride,
          args.output},
         stream);
}

void depthwise_input_gradient(const DepthwiseInputGradient& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const bool turned = geometry.height.stride == 1 && geometry.width.stride == 1;
  gather({args.dtype, args.layout, geometry.batch, geometry.in_channels,
          input_gradient_axis(geometry.height, turned), input_gradient_axis(geometry.width, turned), turned,
          args.weight, args.grad_output, nullptr, 0, args.grad_input},
         stream);
}

int64_t depthwise_weight_gradient_workspace(const DepthwiseWeightGradient& args) {
  if (!has_positions(args)) return 0;
  const WeightGradientPieces pieces = plan_of(args).pieces;
  return pieces.groups * pieces.pieces * args.geometry.in_channels * (args.geometry.taps() + 1) *
         (args.dtype == DType::kFloat64 ? 8 : 4);
}

void depthwise_weight_gradient(const DepthwiseWeightGradient& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  WeightGradientPieces pieces{args.per_sample ? geometry.batch : 1, 0, 0};
  if (has_positions(args)) {
    const WeightGradientPlan plan = plan_of(args);
    pieces = plan.pieces;
    if (plan.tiles) {
      const TiledWeightGradient tiled{*plan.tiles, pieces, args.input.data, args.grad_output.data,
                                      args.workspace};
      const bool channels_last = args.layout == Layout::kChannelsLast;
      if (args.dtype == DType::kFloat32)
        launch_weight_gradient_float32(tiled, plan.window, channels_last, stream);
      if (args.dtype == DType::kBFloat16)
        launch_weight_gradient_bfloat16(tiled, plan.window, channels_last, stream);
      if (args.dtype == DType::kFloat16)
        launch_weight_gradient_float16(tiled, plan.window, channels_last, stream);
    } else {
      launch_direct_weight_gradient(args, stream);
    }
  }
  launch_partial_sums(args, pieces, 1, stream);
}

}  // namespace kshot::cuda
