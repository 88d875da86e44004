// The pass of an optimiser over a weight dictionary and what it keeps for each element, from a dense gradient
// or from the uses that make a compact one:
//
//     g = sign * (grad[k] + sum_u code_u[k] * gate_u[row] * grad_u[row, :])
//     w, states = rule(w, g, states)
//
// where the sign is -1 to maximize, else 1.
//
// A task owns whole rows of all K copies. The uses' gradients of a block of rows stay in the second cache
// while the K copies stream by: memory sees each weight and state read and written once and each effective
// gradient read once, where the dense form also writes and reads K gradients.
#pragma once

#include <algorithm>
#include <array>

#include "common/dictionary_update.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {

constexpr int64_t kUpdateChunk = 1024;  // elements whose gradient is summed up at a time
// Elements of a copy that are updated before those of the next one: streams long enough for the processor to
// prefetch, while the uses' gradients still stay in the second cache.
constexpr int64_t kUpdateBlock = 131072;
constexpr int64_t kUpdateAhead = 512;  // elements to ask for ahead; the processor alone is late by these

template <class T>
inline const T* grad_of_use(const DictionaryUpdate& args, const DictionaryUse& use, int64_t row,
                            int64_t run) {
  return static_cast<const T*>(use.grad) + (row * args.geometry.runs + run) * use.run_length;
}

template <class C>
inline C factor_of_use(const DictionaryUse& use, int64_t k, int64_t row) {
  return static_cast<const C*>(use.code)[k] * (use.gate ? static_cast<const C*>(use.gate)[row] : C(1));
}

// total[i] += sum over uses of the gradient of copy k, for elements [from, from + length) of a run
template <class T>
inline void add_uses(Sum<T>* total, const DictionaryUpdate& args, int64_t k, int64_t row, int64_t run,
                     int64_t from, int64_t length) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  for (int64_t u = 0; u < args.use_count; ++u) {
    const DictionaryUse& use = args.uses[u];
    if (row >= use.rows || from >= use.run_length) continue;
    const C factor = factor_of_use<C>(use, k, row);
    const T* grad = grad_of_use<T>(args, use, row, run) + from;
    const int64_t active = std::min(length, use.run_length - from);
    int64_t i = 0;
    for (; i + lanes <= active; i += lanes) store(total + i, load(total + i) + factor * load(grad + i));
    if (i < active) {
      store_first(total + i, load_first(total + i, active - i) + factor * load_first(grad + i, active - i),
                  active - i);
    }
  }
}

// Whether one use makes the whole gradient of the elements [from, from + length) of a run.
inline bool is_one_use(const DictionaryUpdate& args, int64_t row, int64_t from, int64_t length) {
  return args.use_count == 1 && !args.grad && row < args.uses->rows && from + length <= args.uses->run_length;
}

// Rows [begin, end) of all K copies. `states`: what the optimiser keeps, each like the weight. `rule`: takes
// vectors of weight, gradient and states, changes the states and returns the new weight.
template <class T, int count, class Rule>
void update_rows(const DictionaryUpdate& args, const std::array<void*, count>& states, int64_t begin,
                 int64_t end, const Rule& rule) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  const MixGeometry& geometry = args.geometry;
  const C sign = args.maximize ? -1 : 1;
  C total[kUpdateChunk];
  // `gradient(i, some)`: that of the elements from i on.
  const auto update_elements = [&](int64_t at, int64_t length, const auto& gradient) {
    T* weight = static_cast<T*>(args.weight) + at;
    std::array<T*, count> state;
    for (int s = 0; s < count; ++s) state[s] = static_cast<T*>(states[s]) + at;
    for (int64_t i = 0; i < length; i += lanes) {
      __builtin_prefetch(weight + i + kUpdateAhead, 1);
#pragma GCC unroll 4
      for (int s = 0; s < count; ++s) __builtin_prefetch(state[s] + i + kUpdateAhead, 1);
      with_lanes<C>(std::min(lanes, length - i), [&](auto some) {
        Vec<C> values[count + 1];  // without states, too
#pragma GCC unroll 4
        for (int s = 0; s < count; ++s) values[s] = load_lanes(state[s] + i, some);
        const Vec<C> w = rule(load_lanes(weight + i, some), sign * gradient(i, some), values);
        store_lanes(weight + i, w, some);
#pragma GCC unroll 4
        for (int s = 0; s < count; ++s) store_lanes(state[s] + i, values[s], some);
      });
    }
  };
  const auto update_chunk = [&](int64_t k, int64_t row, int64_t run, int64_t from, int64_t length) {
    const int64_t at = k * geometry.shot_stride + geometry.weight_offset(row, run) + from;
    if (is_one_use(args, row, from, length)) {
      const T* grad = grad_of_use<T>(args, *args.uses, row, run) + from;
      const C factor = factor_of_use<C>(*args.uses, k, row);
      update_elements(at, length, [=](int64_t i, auto some) { return factor * load_lanes(grad + i, some); });
      return;
    }
    const T* dense = args.grad ? static_cast<const T*>(args.grad) + at : nullptr;
    std::fill(total, total + length, C(0));
    add_uses<T>(total, args, k, row, run, from, length);
    update_elements(at, length, [&](int64_t i, auto some) {
      const Vec<C> sum = load_lanes(total + i, some);
      return dense ? sum + load_lanes(dense + i, some) : sum;
    });
  };
  const auto update_row = [&](int64_t k, int64_t row) {
    const int64_t length = geometry.length_in(row);
    for (int64_t run = 0; run < geometry.runs; ++run) {
      for (int64_t from = 0; from < length; from += kUpdateChunk) {
        update_chunk(k, row, run, from, std::min(kUpdateChunk, length - from));
      }
    }
  };
  const int64_t rows = std::max<int64_t>(1, kUpdateBlock / (geometry.runs * geometry.length_in(0)));
  for (int64_t first = begin; first < end; first += rows) {
    for (int64_t k = 0; k < geometry.shots; ++k) {
      for (int64_t row = first; row < std::min(first + rows, end); ++row) update_row(k, row);
    }
  }
}

}  // namespace kshot::cpu::KSHOT_ISA
