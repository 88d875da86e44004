// Launches of the tiled gather for one element type.
#pragma once

#include <algorithm>

#include "cuda/depthwise_gather.cuh"

namespace kshot::cuda {
namespace {

// As many samples to a block as make the reads of its dictionary an eighth of those of its tiles, or a
// quarter where fewer blocks than multiprocessors are left (half of them at least).
inline int samples_per_block(const TilePlan& plan, const DepthwiseWeight& weight, int64_t taps) {
  const int64_t dictionary = weight.shots * taps * plan.tiles(),  // elements for one channel
      images =
          int64_t{plan.height.source} * plan.width.source + int64_t{plan.height.target} * plan.width.target;
  const auto too_few = [&](int64_t samples) {
    const int64_t blocks = ceil_div(plan.batch, 2 * samples) * plan.channel_blocks * plan.tiles();
    if (blocks < kManyBlocks / 5) return false;
    return dictionary * (blocks < kManyBlocks / 2 ? 4 : 8) > samples * images;
  };
  int64_t samples = 1;
  while (samples < plan.batch && too_few(samples)) samples *= 2;
  return static_cast<int>(ceil_div(plan.batch, ceil_div(plan.batch, samples)));
}

template <class T, class Rows, class Columns, bool channels_last, int lanes>
bool launch_shape(const DepthwiseGather& args, void* stream) {
  constexpr int taps = Rows::kernel * Columns::kernel;
  const TileRequest request{args.layout, args.batch, args.channels,   args.height,
                            args.width,  sizeof(T),  Rows::size,      Columns::size,
                            lanes,       false,      tap_pitch(taps), args.weight.shots * taps,
                            args.source, args.target};
  const std::optional<TilePlan> tiles = plan_tiles(request);
  if (!tiles) return false;
  int64_t shared = shared_bytes(*tiles, sizeof(T), tap_pitch(taps));
  int samples = samples_per_block(*tiles, args.weight, taps);
  bool holds_dictionary = false;
  if (varies_by_sample(args.weight) && samples > 1) {
    const int64_t held = args.weight.shots * taps * tiles->block.channels * static_cast<int64_t>(sizeof(T));
    holds_dictionary = shared + held <= kSharedBytes;
    if (holds_dictionary) {
      shared += held;
    } else {
      samples = 1;
    }
  }
  constexpr int64_t lanes_bytes = lanes * static_cast<int64_t>(sizeof(T));
  const bool whole_lanes =
      args.channels % lanes == 0 && reinterpret_cast<uintptr_t>(args.target) % lanes_bytes == 0;
  const TiledGather plan{*tiles,      samples,     holds_dictionary, whole_lanes,      args.turned,
                         args.weight, args.source, args.bias,        args.bias_stride, args.target};
  const int64_t blocks = ceil_div(args.batch, samples) * tiles->tiles() * tiles->channel_blocks;
  KSHOT_LAUNCH((depthwise_gather<T, Rows, Columns, channels_last, lanes>),
               dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(tiles->block.threads)),
               static_cast<size_t>(shared), static_cast<cudaStream_t>(stream), plan);
  return true;
}

template <class T, int kernel, int stride, bool transposed>
bool launch_layout(const DepthwiseGather& args, void* stream) {
  if (args.layout == Layout::kChannelsLast) {
    using Square = Window<kernel, stride, transposed, 4>;
    return launch_shape<T, Square, Square, true, lanes_of_thread(sizeof(T), kernel)>(args, stream);
  }
  using Rows = Window<kernel, stride, transposed, 8>;
  using Columns = Window<kernel, stride, transposed, transposed ? 2 : 1>;
  return launch_shape<T, Rows, Columns, false, 1>(args, stream);
}

template <class T, int kernel>
bool launch_stride(const DepthwiseGather& args, const WindowShape& window, void* stream) {
  if (window.stride == 1) return launch_layout<T, kernel, 1, false>(args, stream);
  return window.transposed ? launch_layout<T, kernel, 2, true>(args, stream)
                           : launch_layout<T, kernel, 2, false>(args, stream);
}

template <class T>
bool launch_gather(const DepthwiseGather& args, const WindowShape& window, void* stream) {
  switch (window.kernel) {
    case 3:
      return launch_stride<T, 3>(args, window, stream);
    case 5:
      return launch_stride<T, 5>(args, window, stream);
    default:
      return launch_stride<T, 7>(args, window, stream);
  }
}

}  // namespace
}  // namespace kshot::cuda
