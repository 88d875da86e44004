// The mixed taps of a block's channels, made once in shared memory:
//
//     taps[channel][t] = gate[channel] * sum_k code[k] * dictionary[k, channel, t]
//
// Neighbouring threads take neighbouring elements of the dictionary, whichever of channel and tap that is.
// Rows of taps are an odd number of words apart, so that neither order of writing nor the reading of one tap
// of neighbouring channels meets the same bank.
#pragma once

#include "cuda/depthwise_conv2d.h"
#include "cuda/dtype.cuh"

namespace kshot::cuda {

__host__ __device__ constexpr int tap_pitch(int taps) {
  return taps | 1;
}

// Whether every sample has taps of its own.
__host__ __device__ inline bool varies_by_sample(const DepthwiseWeight& weight) {
  return weight.code_stride != 0 || weight.gate_stride != 0;
}

// `count` channels from `first_channel` on, of which those from `channels` on are zero. Turned: the last tap
// first, as a gradient of the input reads them.
template <class T>
__device__ __forceinline__ void mix_taps(Sum<T>* taps, const DepthwiseWeight& weight, int64_t sample,
                                         int first_channel, int count, int channels, int tap_count,
                                         bool turned) {
  using C = Sum<T>;
  const T* dictionary = static_cast<const T*>(weight.dictionary) + first_channel * weight.channel_stride;
  const C* code = static_cast<const C*>(weight.code) + sample * weight.code_stride;
  const C* gate = static_cast<const C*>(weight.gate) + sample * weight.gate_stride + first_channel;
  const bool channel_fastest = weight.channel_stride == 1;
  const int shots = static_cast<int>(weight.shots);
  for (int i = static_cast<int>(threadIdx.x); i < count * tap_count; i += static_cast<int>(blockDim.x)) {
    const int channel = channel_fastest ? i % count : i / tap_count,
              tap = channel_fastest ? i / count : i % tap_count;
    C sum = 0;
    if (first_channel + channel < channels) {
      const T* copy = dictionary + channel * weight.channel_stride + tap * weight.tap_stride;
      if (weight.code == nullptr) {
        sum = to_sum(*copy);
      } else {
#pragma unroll 4
        for (int k = 0; k < shots; ++k, copy += weight.shot_stride) sum += code[k] * to_sum(*copy);
      }
      if (weight.gate != nullptr) sum *= gate[channel];
    }
    taps[channel * tap_pitch(tap_count) + (turned ? tap_count - 1 - tap : tap)] = sum;
  }
}

}  // namespace kshot::cuda
