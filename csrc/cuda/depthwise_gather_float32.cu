// The tiled gather of depthwise convolution in float32; see depthwise_gather.cuh.
#include "cuda/depthwise_gather_launch.cuh"

namespace kshot::cuda {

bool launch_gather_float32(const DepthwiseGather& args, const WindowShape& window, void* stream) {
  return launch_gather<float>(args, window, stream);
}

}  // namespace kshot::cuda
