// What the links of a chain share: the norm on an input and the gradient of a raw output, as kernels take
// them. Equations: chain_values.cuh.
#pragma once

#include <cstdint>

#include "common/activation.h"

namespace kshot::cuda {

// Norm and activation that are applied to a raw tensor while it is loaded. All pointers are to device memory.
struct ChainNorm {
  Activation activation;
  float eps;
  const float *mean, *variance;        // [C], or null: no norm
  const float *weight, *bias;          // [C], [N, C], or null for one and zero
  int64_t weight_stride, bias_stride;  // elements from sample to sample: 0 if shared
};

// The gradient of a raw output y by all its uses: g came from the next link, the rest from its moments.
struct ChainGradient {
  const void* grad;                        // g
  const void* output;                      // y; null: the moments have no gradient
  const float* mean;                       // [C]
  const float *grad_mean, *grad_variance;  // [C], or null for zero
  float per_position;                      // 1 / (positions of all samples)
};

// Scales and shifts of a norm's map, z = activation(x * scale + shift), for kernels whose blocks would make
// them many times.
struct ChainNormMap {
  int64_t channels, samples;  // samples: those with values of their own, or 1
  ChainNorm norm;
  float *scales, *shifts;  // [samples, C], written
};

// What G = g + slope * (y - mean) + constant takes.
struct ChainGradientMap {
  int64_t channels;
  ChainGradient gradient;
  float *means, *slopes, *constants;  // [C], written
};

// The gradients of a norm, from the sums that a link made of its input's.
struct ChainNormGradient {
  int64_t channels, samples;  // samples: those with sums of their own, or 1
  ChainNorm norm;
  const float* sums;                       // [samples, 2, C]: of h and of h * (x - mean) * inverse_deviation
  float *mean, *variance, *weight, *bias;  // [C], [C], [samples, C], [samples, C]; written
};

void chain_norm_map(const ChainNormMap& args, void* stream);
void chain_gradient_map(const ChainGradientMap& args, void* stream);
void chain_norm_gradient(const ChainNormGradient& args, void* stream);

}  // namespace kshot::cuda
