// Effective weight of a dictionary:
//
//     effective[n, o, :] = gate[n, o] * sum_k code[n, k] * weight[k, o, :]
//
// and its derivatives, with g = dL/d(effective) and d[n, o, k] = <g[n, o, :], weight[k, o, :]>:
//
//     dL/dweight[k, o, :] = sum_n code[n, k] * gate[n, o] * g[n, o, :]
//     dL/dcode[n, k]      = sum_o gate[n, o] * d[n, o, k]
//     dL/dgate[n, o]      = sum_k code[n, k] * d[n, o, k]
//
// A task owns whole rows o (see common/mix_geometry.h), so threads never share an output. A row is worked off
// in chunks that stay in L1 with all their K copies: every element of the dictionary is read from memory
// once, whatever the number of samples. Bound by memory: K reads per element forward, K reads and K writes
// backward.
#include "cpu/effective_weight.h"

#include <algorithm>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

constexpr int64_t kChunk = 512;  // elements: 16 copies of float fill 32 KiB
constexpr int64_t kShotBlock = 4;

template <class T>
struct Typed {
  using C = Sum<T>;
  const EffectiveWeight& args;
  const MixGeometry& geometry = args.geometry;
  const T* weight = static_cast<const T*>(args.weight);

  const C* code(int64_t n) const { return static_cast<const C*>(args.code) + n * geometry.shots; }
  C gate(int64_t n, int64_t row) const {
    return args.gate ? static_cast<const C*>(args.gate)[n * args.gate_stride + row] : C(1);
  }
};

// Calls body(row, weight offset, packed offset, length) for each chunk of the rows [begin, end).
template <class Body>
inline void for_each_chunk(const MixGeometry& geometry, int64_t begin, int64_t end, const Body& body) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t length = geometry.length_in(row);
    for (int64_t run = 0; run < geometry.runs; ++run) {
      for (int64_t i = 0; i < length; i += kChunk) {
        body(row, geometry.weight_offset(row, run) + i, geometry.packed_offset(row, run) + i,
             std::min(kChunk, length - i));
      }
    }
  }
}

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

// dots[k] += <grad, weight[k]> over one chunk, a block of copies at a time so that their sums stay in
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

// grad_weight[k] = sum_n code[n, k] * gate[n, row] * grad[n] over one chunk
template <class T>
inline void grad_weight_chunk(const Typed<T>& typed, T* grad_weight, const T* grad, int64_t row,
                              int64_t length, bool past_caches) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  const MixGeometry& geometry = typed.geometry;
  for (int64_t k = 0; k < geometry.shots; k += kShotBlock) {
    const int64_t block = std::min(kShotBlock, geometry.shots - k);
    for (int64_t i = 0; i < length; i += lanes) {
      const int64_t count = std::min(lanes, length - i);
      Vec<C> sum[kShotBlock] = {};
      for (int64_t n = 0; n < geometry.samples; ++n) {
        const T* grad_n = grad + n * geometry.sample_size + i;
        const Vec<C> g = typed.gate(n, row) * (count == lanes ? load(grad_n) : load_first(grad_n, count));
        for (int64_t b = 0; b < block; ++b) sum[b] += typed.code(n)[k + b] * g;
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

template <class T>
void forward(const EffectiveWeight& args, int64_t begin, int64_t end) {
  const Typed<T> typed{args};
  const MixGeometry& geometry = args.geometry;
  T* output = static_cast<T*>(args.output);
  for_each_chunk(
      geometry, begin, end, [&](int64_t row, int64_t weight_at, int64_t packed_at, int64_t length) {
        for (int64_t n = 0; n < geometry.samples; ++n) {
          mix_chunk(output + n * geometry.sample_size + packed_at, typed.weight + weight_at,
                    geometry.shot_stride, typed.code(n), geometry.shots, typed.gate(n, row), length);
        }
      });
}

template <class T>
void backward(const EffectiveWeightBackward& args, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const Typed<T> typed{args.forward};
  const MixGeometry& geometry = typed.geometry;
  const T* grad = static_cast<const T*>(args.grad);
  T* grad_weight = static_cast<T*>(args.grad_weight);
  C* row_dots = static_cast<C*>(args.row_dots);
  const auto dots_of = [&](int64_t n, int64_t row) {
    return row_dots + (n * geometry.rows + row) * geometry.shots;
  };

  if (row_dots) {
    for (int64_t n = 0; n < geometry.samples; ++n) std::fill(dots_of(n, begin), dots_of(n, end), C(0));
  }
  for_each_chunk(
      geometry, begin, end, [&](int64_t row, int64_t weight_at, int64_t packed_at, int64_t length) {
        if (row_dots) {
          for (int64_t n = 0; n < geometry.samples; ++n) {
            dot_chunk(dots_of(n, row), grad + n * geometry.sample_size + packed_at, typed.weight + weight_at,
                      geometry.shot_stride, geometry.shots, length);
          }
        }
        if (grad_weight) {
          T* target = grad_weight + weight_at;
          const bool past_caches = args.past_caches && can_pass_caches(target, geometry.shot_stride);
          grad_weight_chunk(typed, target, grad + packed_at, row, length, past_caches);
        }
      });
  if (args.past_caches) finish_stores();
}

template <class T>
void reduce(const EffectiveWeightReduce& args) {
  using C = Sum<T>;
  const Typed<T> typed{args.backward->forward};
  const MixGeometry& geometry = typed.geometry;
  const C* dots = static_cast<const C*>(args.backward->row_dots);
  C* grad_code = static_cast<C*>(args.grad_code);
  C* grad_gate = static_cast<C*>(args.grad_gate);
  for (int64_t n = 0; n < geometry.samples; ++n) {
    for (int64_t row = 0; row < geometry.rows; ++row, dots += geometry.shots) {
      const C gate = typed.gate(n, row);
      C gate_sum = 0;
      for (int64_t k = 0; k < geometry.shots; ++k) {
        if (grad_code) grad_code[n * geometry.shots + k] += gate * dots[k];
        gate_sum += typed.code(n)[k] * dots[k];
      }
      if (grad_gate) grad_gate[n * args.backward->forward.gate_stride + row] += gate_sum;
    }
  }
}

}  // namespace

void effective_weight(const EffectiveWeight& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.dtype,
                 [&](auto* type) { forward<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

void effective_weight_backward(const EffectiveWeightBackward& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.forward.dtype,
                 [&](auto* type) { backward<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

void effective_weight_reduce(const EffectiveWeightReduce& args) {
  dispatch_dtype(args.backward->forward.dtype,
                 [&](auto* type) { reduce<std::remove_pointer_t<decltype(type)>>(args); });
}

}  // namespace kshot::cpu::KSHOT_ISA
