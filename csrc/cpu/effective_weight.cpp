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
// A row may have a code of its own, code[o, n, k]; its gradient is then not summed over o.
//
// A task owns whole rows o (see common/mix_geometry.h), so threads never share an output. A row is worked off
// in chunks that stay in L1 with all their K copies: every element of the dictionary is read from memory
// once, whatever the number of samples. Bound by memory: K reads per element forward, K reads and K writes
// backward.
#include "cpu/effective_weight.h"

#include <algorithm>

#include "cpu/mix_chunks.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

template <class T>
struct Typed {
  using C = Sum<T>;
  const EffectiveWeight& args;
  const MixGeometry& geometry = args.geometry;
  const T* weight = static_cast<const T*>(args.weight);

  const C* code(int64_t n, int64_t row) const {
    return static_cast<const C*>(args.code) + row * args.code_row_stride + n * geometry.shots;
  }
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
      for (int64_t i = 0; i < length; i += kMixChunk) {
        body(row, geometry.weight_offset(row, run) + i, geometry.packed_offset(row, run) + i,
             std::min(kMixChunk, length - i));
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
                    geometry.shot_stride, typed.code(n, row), geometry.shots, typed.gate(n, row), length);
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
          const auto gate = [&](int64_t n) { return typed.gate(n, row); };
          grad_weight_chunk(target, grad + packed_at, geometry, typed.code(0, row), gate, length,
                            past_caches);
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
  const int64_t code_row_stride = args.backward->forward.code_row_stride;
  for (int64_t n = 0; n < geometry.samples; ++n) {
    for (int64_t row = 0; row < geometry.rows; ++row, dots += geometry.shots) {
      const C gate = typed.gate(n, row);
      C gate_sum = 0;
      for (int64_t k = 0; k < geometry.shots; ++k) {
        if (grad_code) grad_code[row * code_row_stride + n * geometry.shots + k] += gate * dots[k];
        gate_sum += typed.code(n, row)[k] * dots[k];
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
