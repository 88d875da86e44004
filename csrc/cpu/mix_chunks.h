// Mixing, its dot products and its gradients over one stretch of a row, which lies in L1 with all K copies.
#pragma once

#include <algorithm>

#include "common/mix_geometry.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {

constexpr int64_t kMixChunk = 512;  // elements: 16 copies of float fill 32 KiB
constexpr int64_t kShotBlock = 4;

// output[i] = scale * sum_k code[k] * weight[k * shot_stride + i]
template <class T>
inline void mix_chunk(T* output, const T* weight, int64_t shot_stride, const Sum<T>* code, int64_t shots,
                      Sum<T> scale, int64_t length) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  int64_t i = 0;
  for (; i + 4 * lanes <= length; i += 4 * lanes) {
    Vec<C> sum[4] = {};
    for (int64_t k = 0; k < shots; ++k) {
      const T* copy = weight + k * shot_stride + i;
      for (int64_t v = 0; v < 4; ++v) sum[v] += code[k] * load(copy + v * lanes);
    }
    for (int64_t v = 0; v < 4; ++v) store(output + i + v * lanes, scale * sum[v]);
  }
  for (; i < length; i += lanes) {
    const int64_t count = std::min(lanes, length - i);
    Vec<C> sum = {};
    for (int64_t k = 0; k < shots; ++k) {
      const T* copy = weight + k * shot_stride + i;
      sum += code[k] * (count == lanes ? load(copy) : load_first(copy, count));
    }
    if (count == lanes) {
      store(output + i, scale * sum);
    } else {
      store_first(output + i, scale * sum, count);
    }
  }
}

// dots[k] += <grad, weight[k]> over one stretch, a block of copies at a time so that their sums stay in
// registers.
template <class T>
inline void dot_chunk(Sum<T>* dots, const T* grad, const T* weight, int64_t shot_stride, int64_t shots,
                      int64_t length) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  for (int64_t k = 0; k < shots; k += kShotBlock) {
    const int64_t block = std::min(kShotBlock, shots - k);
    Vec<C> sum[kShotBlock] = {};
    for (int64_t i = 0; i < length; i += lanes) {
      const int64_t count = std::min(lanes, length - i);
      const Vec<C> g = count == lanes ? load(grad + i) : load_first(grad + i, count);
      for (int64_t b = 0; b < block; ++b) {
        const T* copy = weight + (k + b) * shot_stride + i;
        sum[b] += g * (count == lanes ? load(copy) : load_first(copy, count));
      }
    }
    for (int64_t b = 0; b < block; ++b) dots[k + b] += sum_of_lanes<C>(sum[b]);
  }
}

// grad_weight[k] = sum_n code[n, k] * scale(n) * grad[n] over one stretch
template <class T, class Scale>
inline void grad_weight_chunk(T* grad_weight, const T* grad, const MixGeometry& geometry, const Sum<T>* code,
                              const Scale& scale, int64_t length, bool past_caches) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  for (int64_t k = 0; k < geometry.shots; k += kShotBlock) {
    const int64_t block = std::min(kShotBlock, geometry.shots - k);
    for (int64_t i = 0; i < length; i += lanes) {
      const int64_t count = std::min(lanes, length - i);
      Vec<C> sum[kShotBlock] = {};
      for (int64_t n = 0; n < geometry.samples; ++n) {
        const T* grad_n = grad + n * geometry.sample_size + i;
        const Vec<C> g = scale(n) * (count == lanes ? load(grad_n) : load_first(grad_n, count));
        for (int64_t b = 0; b < block; ++b) sum[b] += code[n * geometry.shots + k + b] * g;
      }
      for (int64_t b = 0; b < block; ++b) {
        T* target = grad_weight + (k + b) * geometry.shot_stride + i;
        if (count < lanes) {
          store_first(target, sum[b], count);
        } else if (past_caches) {
          store_past_caches(target, sum[b]);
        } else {
          store(target, sum[b]);
        }
      }
    }
  }
}

}  // namespace kshot::cpu::KSHOT_ISA
