// Activations and their slopes, on the few elements of one thread at once: the choice is made once for them.
#pragma once

#include "cuda/batch_norm_act.h"
#include "cuda/platform.cuh"

namespace kshot::cuda {

// The quick forms are accurate to about 2^-21 and right at both ends, where exp overflows or vanishes.
__device__ __forceinline__ float sigmoid(float z) {
  return __fdividef(1.0f, 1.0f + __expf(-z));
}
__device__ __forceinline__ double sigmoid(double z) {
  return 1.0 / (1.0 + exp(-z));
}

// Keeps what is not a number.
template <class C>
__device__ __forceinline__ C clamp(C value, C low, C high) {
  return value < low ? low : (value > high ? high : value);
}

// z = activation(z)
template <int lanes, class C>
__device__ __forceinline__ void activate(Activation activation, C (&z)[lanes]) {
  switch (activation) {
    case Activation::kRelu:
#pragma unroll
      for (int i = 0; i < lanes; ++i) z[i] = z[i] < C(0) ? C(0) : z[i];
      break;
    case Activation::kRelu6:
#pragma unroll
      for (int i = 0; i < lanes; ++i) z[i] = clamp(z[i], C(0), C(6));
      break;
    case Activation::kSilu:
#pragma unroll
      for (int i = 0; i < lanes; ++i) z[i] *= sigmoid(z[i]);
      break;
    case Activation::kHardswish:
#pragma unroll
      for (int i = 0; i < lanes; ++i) z[i] *= clamp(z[i] + C(3), C(0), C(6)) * C(1.0 / 6.0);
      break;
    default:
      break;
  }
}

// g *= activation'(z), at the corners as torch has it; where the slope is zero, g may be infinite
template <int lanes, class C>
__device__ __forceinline__ void times_slope(Activation activation, C (&g)[lanes], const C (&z)[lanes]) {
  switch (activation) {
    case Activation::kRelu:
#pragma unroll
      for (int i = 0; i < lanes; ++i) g[i] = z[i] <= C(0) ? C(0) : g[i];
      break;
    case Activation::kRelu6:
#pragma unroll
      for (int i = 0; i < lanes; ++i) g[i] = z[i] > C(0) && z[i] < C(6) ? g[i] : C(0);
      break;
    case Activation::kSilu:
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        const C s = sigmoid(z[i]);
        g[i] *= s * (C(1) + z[i] * (C(1) - s));
      }
      break;
    case Activation::kHardswish:
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        g[i] = z[i] <= C(-3) ? C(0) : (z[i] >= C(3) ? g[i] : g[i] * (z[i] * C(1.0 / 3.0) + C(0.5)));
      }
      break;
    default:
      break;
  }
}

}  // namespace kshot::cuda
