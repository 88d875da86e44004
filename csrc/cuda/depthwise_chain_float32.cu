// Depthwise links of a chain for float32.
#include "cuda/depthwise_chain_launch.cuh"

namespace kshot::cuda {

void launch_chained_float32(const ChainedGather& plan, const ChainLaunch& launch, void* stream) {
  launch_chained<float>(plan, launch, stream);
}

void launch_chained_backward_float32(const ChainedGatherBackward& plan, const ChainLaunch& launch,
                                     void* stream) {
  launch_chained<float>(plan, launch, stream);
}

}  // namespace kshot::cuda
