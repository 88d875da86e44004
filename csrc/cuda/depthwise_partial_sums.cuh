// Sums of the partial gradients of weight and bias (or of other sums beside the weight's) that the blocks
// left, in their order: a thread for every element, neighbours along [channel][taps, then the others].
#pragma once

#include "cuda/depthwise_plan.h"
#include "cuda/depthwise_weight_gradient.h"
#include "cuda/platform.cuh"

namespace kshot::cuda {
namespace {

template <class C>
__global__ void __launch_bounds__(kMostThreads)
    depthwise_partial_sums(const DepthwiseWeightGradient args, const WeightGradientPieces pieces,
                           int64_t channels, int taps, int others) {
  const int64_t size = channels * (taps + others);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= pieces.groups * size) return;
  const int64_t group = index / size, element = index % size;
  const int64_t channel = element / (taps + others), tap = element % (taps + others);
  if (tap < taps ? args.grad_weight == nullptr : args.grad_bias == nullptr) return;
  const C* partial = static_cast<const C*>(args.workspace) + group * pieces.pieces * size + element;
  C sum = 0;
#pragma unroll 4
  for (int64_t p = 0; p < pieces.pieces; ++p) sum += partial[p * size];
  if (tap < taps) {
    static_cast<C*>(args.grad_weight)[group * args.sample_stride + channel * args.channel_stride +
                                      tap * args.tap_stride] = sum;
  } else {
    static_cast<C*>(args.grad_bias)[(group * others + tap - taps) * channels + channel] = sum;
  }
}

inline void launch_partial_sums(const DepthwiseWeightGradient& args, const WeightGradientPieces& pieces,
                                int others, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  const int taps = static_cast<int>(geometry.taps());
  const int64_t sums = pieces.groups * geometry.in_channels * (taps + others);
  if (sums == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(sums, kMostThreads))), block(kMostThreads);
  if (args.dtype == DType::kFloat64) {
    KSHOT_LAUNCH(depthwise_partial_sums<double>, grid, block, 0, static_cast<cudaStream_t>(stream), args,
                 pieces, geometry.in_channels, taps, others);
  } else {
    KSHOT_LAUNCH(depthwise_partial_sums<float>, grid, block, 0, static_cast<cudaStream_t>(stream), args,
                 pieces, geometry.in_channels, taps, others);
  }
}

}  // namespace
}  // namespace kshot::cuda
