// Depthwise convolution of any kernel, stride, dilation and element type, without tiles; for what the tiled
// kernels leave. Kernels: depthwise_direct.cuh.
#pragma once

#include "cuda/depthwise_gather.h"
#include "cuda/depthwise_weight_gradient.h"

namespace kshot::cuda {

void launch_direct_gather(const DepthwiseGather& args, void* stream);

WeightGradientPieces direct_gradient_pieces(const DepthwiseWeightGradient& args);

// Leaves partial sums in the workspace.
void launch_direct_weight_gradient(const DepthwiseWeightGradient& args, void* stream);

}  // namespace kshot::cuda
