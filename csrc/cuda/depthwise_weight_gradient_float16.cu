// The tiled gradient of the weight of depthwise convolution in float16; see depthwise_weight_gradient.cuh.
#include "cuda/depthwise_weight_gradient_launch.cuh"

namespace kshot::cuda {

void launch_weight_gradient_float16(const TiledWeightGradient& plan, const WindowShape& window,
                                    bool channels_last, void* stream) {
  launch_weight_gradient<__half>(plan, window, channels_last, stream);
}

}  // namespace kshot::cuda
