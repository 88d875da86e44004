// SGD with momentum on a weight dictionary, from a dense gradient or from the uses that make a compact one:
//
//     g = sign * (grad[k] + sum_u code_u[k] * gate_u[row] * grad_u[row, :]) + weight_decay * w
//     v = momentum * v + (1 - dampening) * g
//     w = w - lr * (nesterov ? g + momentum * v : v)
//
// where the sign is -1 to maximize, else 1.
//
// A task owns whole rows of all K copies. The uses' gradients of one chunk stay in L1 while the K copies
// stream by: memory sees each weight and momentum read and written once (4 accesses per element) and each
// effective gradient read once, where the dense form also writes and reads K gradients.
#include "cpu/sgd_update.h"

#include <algorithm>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

constexpr int64_t kChunk = 1024;

// total[i] += sum over uses of the gradient of copy k, for elements [from, from + length) of a run
template <class T>
inline void add_uses(Sum<T>* total, const SgdUpdate& args, int64_t k, int64_t row, int64_t run, int64_t from,
                     int64_t length) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  for (int64_t u = 0; u < args.use_count; ++u) {
    const SgdUse& use = args.uses[u];
    if (row >= use.rows || from >= use.run_length) continue;
    const C gate = use.gate ? static_cast<const C*>(use.gate)[row] : C(1);
    const C factor = static_cast<const C*>(use.code)[k] * gate;
    const T* grad =
        static_cast<const T*>(use.grad) + (row * args.geometry.runs + run) * use.run_length + from;
    const int64_t active = std::min(length, use.run_length - from);
    int64_t i = 0;
    for (; i + lanes <= active; i += lanes) store(total + i, load(total + i) + factor * load(grad + i));
    if (i < active) {
      store_first(total + i, load_first(total + i, active - i) + factor * load_first(grad + i, active - i),
                  active - i);
    }
  }
}

// One step on `lanes` elements; v is ignored and untouched without momentum.
template <class C>
inline Vec<C> step(Vec<C> w, Vec<C> g, Vec<C>& v, const SgdUpdate& args) {
  g = static_cast<C>(args.maximize ? -1 : 1) * g + static_cast<C>(args.weight_decay) * w;
  if (args.momentum_buffer) {
    v = static_cast<C>(args.momentum) * v + static_cast<C>(1 - args.dampening) * g;
    g = args.nesterov ? g + static_cast<C>(args.momentum) * v : v;
  }
  return w - static_cast<C>(args.lr) * g;
}

template <class T>
void update(const SgdUpdate& args, int64_t begin, int64_t end) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  const MixGeometry& geometry = args.geometry;
  C total[kChunk];
  const auto update_chunk = [&](int64_t k, int64_t row, int64_t run, int64_t from, int64_t length) {
    const int64_t at = k * geometry.shot_stride + geometry.weight_offset(row, run) + from;
    T* weight = static_cast<T*>(args.weight) + at;
    T* buffer = args.momentum_buffer ? static_cast<T*>(args.momentum_buffer) + at : nullptr;
    const T* dense = args.grad ? static_cast<const T*>(args.grad) + at : nullptr;
    std::fill(total, total + length, C(0));
    add_uses<T>(total, args, k, row, run, from, length);
    for (int64_t i = 0; i < length; i += lanes) {
      const int64_t count = std::min(lanes, length - i);
      const bool whole = count == lanes;
      // The next chunk of this copy comes after those of all others, too late for the processor's own
      // prefetching.
      __builtin_prefetch(weight + i + length, 1);
      if (buffer) __builtin_prefetch(buffer + i + length, 1);
      Vec<C> g = whole ? load(total + i) : load_first(total + i, count);
      if (dense) g += whole ? load(dense + i) : load_first(dense + i, count);
      Vec<C> v = {};
      if (buffer) v = whole ? load(buffer + i) : load_first(buffer + i, count);
      const Vec<C> w = step<C>(whole ? load(weight + i) : load_first(weight + i, count), g, v, args);
      if (whole) {
        store(weight + i, w);
        if (buffer) store(buffer + i, v);
      } else {
        store_first(weight + i, w, count);
        if (buffer) store_first(buffer + i, v, count);
      }
    }
  };
  for (int64_t row = begin; row < end; ++row) {
    const int64_t length = geometry.length_in(row);
    for (int64_t run = 0; run < geometry.runs; ++run) {
      for (int64_t from = 0; from < length; from += kChunk) {
        for (int64_t k = 0; k < geometry.shots; ++k) {
          update_chunk(k, row, run, from, std::min(kChunk, length - from));
        }
      }
    }
  }
}

}  // namespace

void sgd_update(const SgdUpdate& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.dtype,
                 [&](auto* type) { update<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

}  // namespace kshot::cpu::KSHOT_ISA
