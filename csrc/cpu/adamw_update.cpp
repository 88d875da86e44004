// AdamW on a weight dictionary. With g as in dictionary_update.h, in step t:
//
//     m = beta1 * m + (1 - beta1) * g
//     v = beta2 * v + (1 - beta2) * g^2
//     w = (1 - lr * weight_decay) * w - lr / (1 - beta1^t) * m / (sqrt(u / (1 - beta2^t)) + eps)
//
// where u is v, or with amsgrad the largest v so far. Copies share the gradient's shape, not their codes'
// history, so each has moments of its own. Bound by memory: 6 accesses per element (8 with amsgrad), and one
// per element of an effective gradient; root and division take a third of that time.
#include "cpu/adamw_update.h"

#include <type_traits>

#include "cpu/dictionary_update.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// A NaN on either side stays.
template <class C>
inline Vec<C> larger(Vec<C> a, Vec<C> b) {
  return ((a >= b) | (a != a)) ? a : b;
}

template <class T>
void update(const AdamwUpdate& args, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const C beta1 = static_cast<C>(args.beta1), beta2 = static_cast<C>(args.beta2),
          rest1 = static_cast<C>(1 - args.beta1), rest2 = static_cast<C>(1 - args.beta2),
          kept = static_cast<C>(args.kept), step_size = static_cast<C>(args.step_size),
          spread = static_cast<C>(args.spread), eps = static_cast<C>(args.eps);
  const auto add_to_moments = [=](Vec<C> g, Vec<C>* moments) {
    moments[0] = beta1 * moments[0] + rest1 * g;
    moments[1] = beta2 * moments[1] + rest2 * (g * g);
  };
  const auto moved = [=](Vec<C> w, Vec<C> m, Vec<C> u) {
    return kept * w - step_size * m / (square_root<C>(u) * spread + eps);
  };
  if (!args.max_exp_avg_sq) {
    update_rows<T, 2>(args, {args.exp_avg, args.exp_avg_sq}, begin, end,
                      [=](Vec<C> w, Vec<C> g, Vec<C>* moments) {
                        add_to_moments(g, moments);
                        return moved(w, moments[0], moments[1]);
                      });
    return;
  }
  update_rows<T, 3>(args, {args.exp_avg, args.exp_avg_sq, args.max_exp_avg_sq}, begin, end,
                    [=](Vec<C> w, Vec<C> g, Vec<C>* moments) {
                      add_to_moments(g, moments);
                      moments[2] = larger<C>(moments[2], moments[1]);
                      return moved(w, moments[0], moments[2]);
                    });
}

}  // namespace

void adamw_update(const AdamwUpdate& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.dtype,
                 [&](auto* type) { update<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

}  // namespace kshot::cpu::KSHOT_ISA
