// Launches of depthwise convolution without tiles; see depthwise_direct.cuh.
#include "cuda/depthwise_direct.cuh"

namespace kshot::cuda {
namespace {

constexpr int64_t kTargetsPerThread = 8;
constexpr int64_t kMostPieces = 64;
constexpr int64_t kPositionsPerPiece = 512;

// Channels and positions over the threads of a block; no more channels than `channels_that_fit`.
BlockShape direct_block(Layout layout, int64_t channels, int64_t positions, int64_t channels_that_fit) {
  const int threads_log2 = log2_ceil(kMostThreads);
  BlockShape block{};
  if (layout == Layout::kChannelsLast) {
    block.channel_lanes_log2 = std::min(5, log2_ceil(channels));
    while (block.channel_lanes_log2 > 0 && (int64_t{1} << block.channel_lanes_log2) > channels_that_fit) {
      --block.channel_lanes_log2;
    }
    block.position_lanes_log2 = threads_log2 - block.channel_lanes_log2;
  } else {
    block.position_lanes_log2 = std::min(threads_log2, std::max(3, log2_ceil(positions)));
    block.channel_lanes_log2 = threads_log2 - block.position_lanes_log2;
    while (block.channel_lanes_log2 > 0 && (int64_t{1} << block.channel_lanes_log2) > channels_that_fit) {
      --block.channel_lanes_log2;
    }
  }
  block.threads = 1 << (block.channel_lanes_log2 + block.position_lanes_log2);
  block.channels = 1 << block.channel_lanes_log2;
  return block;
}

}  // namespace

void launch_direct_gather(const DepthwiseGather& args, void* stream) {
  const int taps = static_cast<int>(args.height.kernel * args.width.kernel);
  const int64_t sum_bytes = args.dtype == DType::kFloat64 ? 8 : 4,
                positions = args.height.target * args.width.target;
  const BlockShape block =
      direct_block(args.layout, args.channels, positions, kSharedBytes / (tap_pitch(taps) * sum_bytes));
  const int64_t per_block = kTargetsPerThread << block.position_lanes_log2,
                position_blocks = ceil_div(positions, per_block),
                channel_blocks = ceil_div(args.channels, block.channels);
  const dim3 grid(static_cast<unsigned>(args.batch * position_blocks * channel_blocks)),
      threads(static_cast<unsigned>(block.threads));
  const auto shared = static_cast<size_t>(block.channels * tap_pitch(taps) * sum_bytes);
  const DirectGather plan{args,
                          DirectAxis(args.height),
                          DirectAxis(args.width),
                          block,
                          static_cast<int>(channel_blocks),
                          static_cast<int>(position_blocks),
                          static_cast<int>(per_block)};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  dispatch_device_dtype(args.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (args.layout == Layout::kChannelsLast) {
      KSHOT_LAUNCH((depthwise_direct_gather<T, true>), grid, threads, shared, cuda_stream, plan);
    } else {
      KSHOT_LAUNCH((depthwise_direct_gather<T, false>), grid, threads, shared, cuda_stream, plan);
    }
  });
}

WeightGradientPieces direct_gradient_pieces(const DepthwiseWeightGradient& args) {
  const ConvGeometry& geometry = args.geometry;
  const int64_t positions = geometry.height.output * geometry.width.output;
  const int64_t groups = args.per_sample ? geometry.batch : 1,
                items = args.per_sample ? positions : positions * geometry.batch;
  return {groups, std::min(kMostPieces, ceil_div(items, kPositionsPerPiece)), items};
}

void launch_direct_weight_gradient(const DepthwiseWeightGradient& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const WeightGradientPieces pieces = direct_gradient_pieces(args);
  const BlockShape block = direct_block(args.layout, geometry.in_channels, pieces.items, kMostThreads);
  const int64_t channel_blocks = ceil_div(geometry.in_channels, block.channels);
  const dim3 grid(static_cast<unsigned>(pieces.groups * pieces.pieces * channel_blocks)),
      threads(static_cast<unsigned>(block.threads));
  const DirectAxis height(forward_axis(geometry.height)), width(forward_axis(geometry.width));
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  dispatch_device_dtype(args.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto shared = static_cast<size_t>(block.threads) * sizeof(Sum<T>);
    if (args.layout == Layout::kChannelsLast) {
      KSHOT_LAUNCH((depthwise_direct_weight_gradient<T, true>), grid, threads, shared, cuda_stream, args,
                   height, width, block, static_cast<int>(channel_blocks), pieces);
    } else {
      KSHOT_LAUNCH((depthwise_direct_weight_gradient<T, false>), grid, threads, shared, cuda_stream, args,
                   height, width, block, static_cast<int>(channel_blocks), pieces);
    }
  });
}

}  // namespace kshot::cuda
