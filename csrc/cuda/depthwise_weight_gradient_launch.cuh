// Launches of the tiled gradient of the weight for one element type.
#pragma once

#include "cuda/depthwise_weight_gradient.cuh"

namespace kshot::cuda {
namespace {

template <class T, int kernel, int stride>
void launch_layout(const TiledWeightGradient& plan, bool channels_last, void* stream) {
  using Square = Window<kernel, stride, false, 4>;
  using Rows = Window<kernel, stride, false, 8>;
  using Columns = Window<kernel, stride, false, 1>;
  const int64_t blocks = plan.pieces.groups * plan.pieces.pieces * plan.tiles.channel_blocks;
  const auto grid = dim3(static_cast<unsigned>(blocks)),
             block = dim3(static_cast<unsigned>(plan.tiles.block.threads));
  const auto shared =
      static_cast<size_t>(shared_bytes(plan.tiles, sizeof(T), tap_pitch(kernel * kernel + 1)));
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (channels_last) {
    KSHOT_LAUNCH((depthwise_weight_gradient<T, Square, Square, true, lanes_of_thread(sizeof(T), kernel)>),
                 grid, block, shared, cuda_stream, plan);
  } else {
    KSHOT_LAUNCH((depthwise_weight_gradient<T, Rows, Columns, false, 1>), grid, block, shared, cuda_stream,
                 plan);
  }
}

template <class T, int kernel>
void launch_stride(const TiledWeightGradient& plan, int stride, bool channels_last, void* stream) {
  if (stride == 1) {
    launch_layout<T, kernel, 1>(plan, channels_last, stream);
  } else {
    launch_layout<T, kernel, 2>(plan, channels_last, stream);
  }
}

template <class T>
void launch_weight_gradient(const TiledWeightGradient& plan, const WindowShape& window, bool channels_last,
                            void* stream) {
  switch (window.kernel) {
    case 3:
      return launch_stride<T, 3>(plan, window.stride, channels_last, stream);
    case 5:
      return launch_stride<T, 5>(plan, window.stride, channels_last, stream);
    default:
      return launch_stride<T, 7>(plan, window.stride, channels_last, stream);
  }
}

}  // namespace
}  // namespace kshot::cuda
