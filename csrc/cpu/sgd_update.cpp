// SGD with momentum on a weight dictionary. With g as in dictionary_update.h:
//
//     g = g + weight_decay * w
//     v = momentum * v + (1 - dampening) * g
//     w = w - lr * (nesterov ? g + momentum * v : v)
//
// and w = w - lr * g without momentum. Bound by memory: 4 accesses per element with momentum, and one per
// element of an effective gradient.
#include "cpu/sgd_update.h"

#include <type_traits>

#include "cpu/dictionary_update.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

template <class T>
void update(const SgdUpdate& args, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const C lr = static_cast<C>(args.lr), weight_decay = static_cast<C>(args.weight_decay);
  if (!args.momentum_buffer) {
    update_rows<T, 0>(args, {}, begin, end,
                      [=](Vec<C> w, Vec<C> g, Vec<C>*) { return w - lr * (g + weight_decay * w); });
    return;
  }
  const C momentum = static_cast<C>(args.momentum), undampened = static_cast<C>(1 - args.dampening);
  const bool nesterov = args.nesterov;
  update_rows<T, 1>(args, {args.momentum_buffer}, begin, end, [=](Vec<C> w, Vec<C> g, Vec<C>* v) {
    g += weight_decay * w;
    *v = momentum * *v + undampened * g;
    return w - lr * (nesterov ? g + momentum * *v : *v);
  });
}

}  // namespace

void sgd_update(const SgdUpdate& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.dtype,
                 [&](auto* type) { update<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

}  // namespace kshot::cpu::KSHOT_ISA
