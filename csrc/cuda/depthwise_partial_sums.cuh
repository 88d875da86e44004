// Sums of the partial gradients of weight and bias that the blocks left, in their order: a thread for every
// element, neighbours along [channel][tap].
#pragma once

#include "cuda/depthwise_weight_gradient.h"
#include "cuda/platform.cuh"

namespace kshot::cuda {
namespace {

template <class C>
__global__ void __launch_bounds__(kMostThreads)
    depthwise_partial_sums(const DepthwiseWeightGradient args, const WeightGradientPieces pieces,
                           int64_t channels, int taps) {
  const int64_t size = channels * (taps + 1);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= pieces.groups * size) return;
  const int64_t group = index / size, element = index % size;
  const int64_t channel = element / (taps + 1), tap = element % (taps + 1);
  const C* partial = static_cast<const C*>(args.workspace) + group * pieces.pieces * size + element;
  C sum = 0;
#pragma unroll 4
  for (int64_t p = 0; p < pieces.pieces; ++p) sum += partial[p * size];
  if (tap < taps) {
    static_cast<C*>(args.grad_weight)[group * args.sample_stride + channel * args.channel_stride +
                                      tap * args.tap_stride] = sum;
  } else if (args.grad_bias != nullptr) {
    static_cast<C*>(args.grad_bias)[group * channels + channel] = sum;
  }
}

}  // namespace
}  // namespace kshot::cuda
