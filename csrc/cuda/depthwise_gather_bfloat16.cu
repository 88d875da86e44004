// The tiled gather of depthwise convolution in bfloat16; see depthwise_gather.cuh.
#include "cuda/depthwise_gather_launch.cuh"

namespace kshot::cuda {

bool launch_gather_bfloat16(const DepthwiseGather& args, const WindowShape& window, void* stream) {
  return launch_gather<__nv_bfloat16>(args, window, stream);
}

}  // namespace kshot::cuda
