// Launches of the tiled gather for one element type.
#pragma once

#include <algorithm>

#include "cuda/depthwise_gather.cuh"

namespace kshot::cuda {
namespace {

template <class T, class Rows, class Columns, bool channels_last, int lanes>
bool launch_shape(const DepthwiseGather& args, void* stream) {
  constexpr int taps = Rows::kernel * Columns::kernel;
  const TileRequest request{args.layout,     args.batch,
                            args.channels,   args.height,
                            args.width,      sizeof(T),
                            Rows::size,      Columns::size,
                            lanes,           false,
                            tap_pitch(taps), args.weight.shots * taps,
                            args.source,     {args.target, args.channels}};
  const std::optional<TilePlan> tiles = plan_tiles(request);
  if (!tiles) return false;
  const int64_t dictionary = args.weight.shots * taps;  // elements of a channel
  const SampleShare share =
      share_samples(*tiles, dictionary, dictionary * tiles->block.channels * static_cast<int64_t>(sizeof(T)),
                    varies_by_sample(args.weight), shared_bytes(*tiles, sizeof(T), tap_pitch(taps)));
  constexpr int64_t lanes_bytes = lanes * static_cast<int64_t>(sizeof(T));
  const bool whole_lanes =
      args.channels % lanes == 0 && reinterpret_cast<uintptr_t>(args.target) % lanes_bytes == 0;
  const TiledGather plan{*tiles,           share.samples, share.holds_dictionary, whole_lanes,
                         args.turned,      args.weight,   args.source.data,       args.bias,
                         args.bias_stride, args.target};
  const int64_t blocks = ceil_div(args.batch, share.samples) * tiles->tiles() * tiles->channel_blocks;
  KSHOT_LAUNCH((depthwise_gather<T, Rows, Columns, channels_last, lanes, PlainLink>),
               dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(tiles->block.threads)),
               static_cast<size_t>(share.shared), static_cast<cudaStream_t>(stream), plan);
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
