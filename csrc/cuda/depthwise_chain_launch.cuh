// Launches of depthwise links for one element type.
#pragma once

#include "cuda/depthwise_gather.cuh"

namespace kshot::cuda {
namespace {

template <class T, int kernel, int stride>
void launch_forward_shape(const ChainedGather& plan, const ChainLaunch& launch, void* stream) {
  using Square = Window<kernel, stride, false, kGroupSize>;
  constexpr int lanes = lanes_of_thread(sizeof(T), kernel);
  KSHOT_LAUNCH((depthwise_gather<T, Square, Square, true, lanes, ForwardLink<lanes, (kernel < 7)>>),
               dim3(launch.blocks), dim3(static_cast<unsigned>(plan.tiles.block.threads)),
               static_cast<size_t>(launch.shared), static_cast<cudaStream_t>(stream), plan);
}

template <class T, int kernel, int stride, bool transposed>
void launch_backward_shape(const ChainedGatherBackward& plan, const ChainLaunch& launch, void* stream) {
  using Rows = Window<kernel, stride, transposed, backward_rows(kernel)>;
  using Columns = Window<kernel, stride, transposed, backward_columns(kernel)>;
  KSHOT_LAUNCH((depthwise_gather<T, Rows, Columns, true, 1, BackwardLink<kernel * kernel>>),
               dim3(launch.blocks), dim3(static_cast<unsigned>(plan.tiles.block.threads)),
               static_cast<size_t>(launch.shared), static_cast<cudaStream_t>(stream), plan);
}

template <class T, int kernel>
void launch_link(const ChainedGather& plan, const ChainLaunch& launch, void* stream) {
  if (launch.window.stride == 1) return launch_forward_shape<T, kernel, 1>(plan, launch, stream);
  launch_forward_shape<T, kernel, 2>(plan, launch, stream);
}

template <class T, int kernel>
void launch_link(const ChainedGatherBackward& plan, const ChainLaunch& launch, void* stream) {
  if (launch.window.stride == 1) return launch_backward_shape<T, kernel, 1, false>(plan, launch, stream);
  launch_backward_shape<T, kernel, 2, true>(plan, launch, stream);
}

template <class T, class Plan>
void launch_chained(const Plan& plan, const ChainLaunch& launch, void* stream) {
  switch (launch.window.kernel) {
    case 3:
      return launch_link<T, 3>(plan, launch, stream);
    case 5:
      return launch_link<T, 5>(plan, launch, stream);
    default:
      return launch_link<T, 7>(plan, launch, stream);
  }
}

}  // namespace
}  // namespace kshot::cuda
