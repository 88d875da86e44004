// The tiled gather of depthwise convolution in float16; see depthwise_gather.cuh.
#include "cuda/depthwise_gather_launch.cuh"

namespace kshot::cuda {

bool launch_gather_float16(const DepthwiseGather& args, const WindowShape& window, void* stream) {
  return launch_gather<__half>(args, window, stream);
}

}  // namespace kshot::cuda
