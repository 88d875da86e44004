// Activations and their slopes on vectors, as every kernel that fuses them has them.
#pragma once

#include <cmath>
#include <limits>

#include "common/activation.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {

template <class C>
inline Vec<C> clamp(Vec<C> v, C low, C high) {
  v = v < low ? splat(low) : v;
  return v > high ? splat(high) : v;
}

// Activations that only bound what they are given, which kernels do on sums that are still in registers.
struct Bounds {
  bool any = false;
  float low = 0, high = 0;

  Bounds() = default;
  explicit Bounds(Activation activation)
      : any(activation == Activation::kRelu || activation == Activation::kRelu6),
        high(activation == Activation::kRelu6 ? 6 : std::numeric_limits<float>::infinity()) {}

  template <class C>
  Vec<C> of(Vec<C> v) const {
    return clamp<C>(v, C(low), C(high));
  }
};

template <class C>
__attribute__((noinline)) Vec<C> sigmoid(Vec<C> z) {
  Vec<C> result = {};
  for (int64_t i = 0; i < kLanes<C>; ++i) result[i] = C(1) / (C(1) + std::exp(-z[i]));
  return result;
}

// The kind is a constant where a loop is compiled for that activation alone; otherwise activations are chosen
// vector by vector, to spare many copies of each loop.
template <class T, class Kind>
inline Vec<Sum<T>> activate(Kind activation, Vec<Sum<T>> z) {
  using C = Sum<T>;
  switch (static_cast<Activation>(activation)) {
    case Activation::kRelu:
      return z > C(0) ? z : (z != z ? z : Vec<C>{});
    case Activation::kRelu6:
      return clamp<C>(z, 0, 6);
    case Activation::kSilu:
      return z * sigmoid<C>(z);
    case Activation::kHardswish:
      return z * clamp<C>(z + C(3), 0, 6) / C(6);
    default:
      return z;
  }
}

// g * activation'(z), at the corners as torch has it. Where the slope is zero by definition g is not looked
// at: it may be infinite.
template <class T, class Kind>
inline Vec<Sum<T>> times_slope(Kind activation, Vec<Sum<T>> g, Vec<Sum<T>> z) {
  using C = Sum<T>;
  const Vec<C> one = splat(C(1)), zero = {};
  switch (static_cast<Activation>(activation)) {
    case Activation::kRelu:
      return z <= C(0) ? zero : g;
    case Activation::kRelu6:
      return (z > C(0)) & (z < C(6)) ? g : zero;
    case Activation::kSilu: {
      const Vec<C> s = sigmoid<C>(z);
      return g * (s * (one + z * (one - s)));
    }
    case Activation::kHardswish:
      return z <= C(-3) ? zero : (z >= C(3) ? g : g * (z / C(3) + C(0.5)));
    default:
      return g;
  }
}

}  // namespace kshot::cpu::KSHOT_ISA
