// A gate per channel on depthwise weights by tap, and its gradient; on the CPU.
//
//     weight[n, t, c] = gate[n, c] * mixed[n, t, c]
#pragma once

#include "ops/tensor_utils.h"

namespace kshot {

// body(element, the gate's) for the elements of tensors [N, taps, C], with a gate [C] or [N, C].
template <class Body>
void for_each_tap(const Tensor& like, const Tensor& gate, const Body& body) {
  const int64_t samples = like.size(0), taps = like.size(1), channels = like.size(2);
  const int64_t gate_stride = gate.dim() == 2 ? channels : 0;
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t c = 0; c < channels; ++c) body((n * taps + t) * channels + c, n * gate_stride + c);
    }
  }
}

// Calls body with a null pointer of the type that sums are taken in.
template <class Body>
void dispatch_sums(const Tensor& sums, const Body& body) {
  if (dtype_of(sums) == DType::kFloat64) return body(static_cast<double*>(nullptr));
  body(static_cast<float*>(nullptr));
}

// The gated weight. All are contiguous, of one type of sums.
inline Tensor with_tap_gate(const Tensor& mixed, const Tensor& gate) {
  const Sizes sizes = sizes_of(mixed);
  Tensor result = empty_strided(sizes, contiguous_strides(sizes), gate.scalar_type(), gate);
  dispatch_sums(gate, [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    const C *value = static_cast<const C*>(mixed.data_ptr()),
            *factor = static_cast<const C*>(gate.data_ptr());
    C* target = static_cast<C*>(result.data_ptr());
    for_each_tap(mixed, gate, [&](int64_t i, int64_t at) { target[i] = factor[at] * value[i]; });
  });
  return result;
}

// The gate's gradient from that of the gated weight.
inline Tensor tap_gate_gradient(const Tensor& mixed, const Tensor& grad, const Tensor& gate) {
  const Sizes sizes = sizes_of(gate);
  Tensor result = empty_strided(sizes, contiguous_strides(sizes), gate.scalar_type(), gate);
  torch::stable::zero_(result);
  dispatch_sums(gate, [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    const C *value = static_cast<const C*>(mixed.data_ptr()), *g = static_cast<const C*>(grad.data_ptr());
    C* target = static_cast<C*>(result.data_ptr());
    for_each_tap(mixed, gate, [&](int64_t i, int64_t at) { target[at] += value[i] * g[i]; });
  });
  return result;
}

}  // namespace kshot
