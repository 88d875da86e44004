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

// The block's share of a dictionary: `count` channels from `first` on, of which `channels` exist in all. Its
// elements are numbered so that neighbours are neighbours in memory.
template <class T>
struct DictionaryPart {
  const DepthwiseWeight& weight;
  int first, count, channels, taps;

  struct Element {
    int channel, tap;
  };
  __device__ __forceinline__ Element element(int i) const {
    if (weight.channel_stride == 1) return {i % count, i / count};
    return {i / taps, i % taps};
  }
  __device__ __forceinline__ bool exists(const Element& at) const { return first + at.channel < channels; }
  __device__ __forceinline__ int size() const { return count * taps; }
  // Of copy 0.
  __device__ __forceinline__ const T* address(const Element& at) const {
    return static_cast<const T*>(weight.dictionary) + (first + at.channel) * weight.channel_stride +
           at.tap * weight.tap_stride;
  }
};

// Copies the part to shared memory, element i of copy k to held[k * size + i], for several samples to mix.
template <class T>
__device__ __forceinline__ void hold_dictionary(T* held, const DictionaryPart<T>& part) {
  const int shots = static_cast<int>(part.weight.shots), size = part.size();
  for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
    const auto at = part.element(i);
    if (!part.exists(at)) continue;
    const T* copy = part.address(at);
#pragma unroll 4
    for (int k = 0; k < shots; ++k, copy += part.weight.shot_stride) held[k * size + i] = *copy;
  }
}

// Mixes the part for a sample, from `held` unless that is null; channels beyond the last get zeros. Turned:
// the last tap first, as a gradient of the input reads them.
template <class T>
__device__ __forceinline__ void mix_taps(Sum<T>* taps, const DictionaryPart<T>& part, const T* held,
                                         int64_t sample, bool turned) {
  using C = Sum<T>;
  const DepthwiseWeight& weight = part.weight;
  const C* code = static_cast<const C*>(weight.code) + sample * weight.code_stride;
  const C* gate = static_cast<const C*>(weight.gate) + sample * weight.gate_stride + part.first;
  const int shots = static_cast<int>(weight.shots);
  for (int i = static_cast<int>(threadIdx.x); i < part.size(); i += static_cast<int>(blockDim.x)) {
    const auto at = part.element(i);
    C sum = 0;
    if (part.exists(at)) {
      if (weight.code == nullptr) {
        sum = to_sum(*part.address(at));
      } else if (held != nullptr) {
#pragma unroll 4
        for (int k = 0; k < shots; ++k) sum += code[k] * to_sum(held[k * part.size() + i]);
      } else {
        const T* copy = part.address(at);
#pragma unroll 4
        for (int k = 0; k < shots; ++k, copy += weight.shot_stride) sum += code[k] * to_sum(*copy);
      }
      if (weight.gate != nullptr) sum *= gate[at.channel];
    }
    taps[at.channel * tap_pitch(part.taps) + (turned ? part.taps - 1 - at.tap : at.tap)] = sum;
  }
}

}  // namespace kshot::cuda
