// Per-channel values of a chain's links. With s = weight * inverse_deviation and t = bias - mean * s:
//
//     z = activation(x * s + t)                              x: raw output of the convolution before
//     G = g + slope * (y - mean_y) + constant                dL/dy by all uses of y; g: what the next link
//     stored h = dL/dz * activation'(x * s + t)                     dL/dx = h * s sums of h and of h * (x -
//     mean) * inverse_deviation    the gradients of the norm's bias and weight
//
// where slope = 2 dL/dvariance / count and constant = dL/dmean / count.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/chain.h"

namespace kshot::cuda {

// Whether every sample has a norm of its own.
__host__ __device__ inline bool varies_by_sample(const ChainNorm& norm) {
  return norm.weight_stride != 0 || norm.bias_stride != 0;
}

namespace {

// Without a norm x is z's argument.
struct NormValues {
  float scale, shift, mean, inverse_deviation;

  __device__ __forceinline__ NormValues(const ChainNorm& norm, int64_t sample, int channel)
      : scale(1), shift(0), mean(0), inverse_deviation(1) {
    if (norm.mean == nullptr) return;
    mean = norm.mean[channel];
    inverse_deviation = 1.0f / sqrtf(norm.variance[channel] + norm.eps);
    scale = inverse_deviation *
            (norm.weight != nullptr ? norm.weight[sample * norm.weight_stride + channel] : 1.0f);
    shift = (norm.bias != nullptr ? norm.bias[sample * norm.bias_stride + channel] : 0.0f) - mean * scale;
  }
};

struct GradientValues {
  float mean, slope, constant;

  __device__ __forceinline__ GradientValues(const ChainGradient& gradient, int channel)
      : mean(0), slope(0), constant(0) {
    if (gradient.output == nullptr) return;
    mean = gradient.mean[channel];
    if (gradient.grad_variance != nullptr) {
      slope = 2 * gradient.grad_variance[channel] * gradient.per_position;
    }
    if (gradient.grad_mean != nullptr) constant = gradient.grad_mean[channel] * gradient.per_position;
  }
};

}  // namespace
}  // namespace kshot::cuda
