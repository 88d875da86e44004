// Depthwise links of a chain for bfloat16.
#include "cuda/depthwise_chain_launch.cuh"

namespace kshot::cuda {

void launch_chained_bfloat16(const ChainedGather& plan, const ChainLaunch& launch, void* stream) {
  launch_chained<__nv_bfloat16>(plan, launch, stream);
}

void launch_chained_backward_bfloat16(const ChainedGatherBackward& plan, const ChainLaunch& launch,
                                      void* stream) {
  launch_chained<__nv_bfloat16>(plan, launch, stream);
}

}  // namespace kshot::cuda
