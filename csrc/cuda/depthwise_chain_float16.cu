// Depthwise links of a chain for float16.
#include "cuda/depthwise_chain_launch.cuh"

namespace kshot::cuda {

void launch_chained_float16(const ChainedGather& plan, const ChainLaunch& launch, void* stream) {
  launch_chained<__half>(plan, launch, stream);
}

void launch_chained_backward_float16(const ChainedGatherBackward& plan, const ChainLaunch& launch,
                                     void* stream) {
  launch_chained<__half>(plan, launch, stream);
}

}  // namespace kshot::cuda
