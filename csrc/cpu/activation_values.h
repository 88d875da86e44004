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

// e^x to 1 ulp: 2^n e^r with n the integer nearest to x / log 2, and a polynomial for e^r (Cephes' expf).
// Beyond the largest float it is infinite, below the smallest normal one it is zero, and of NaN it is NaN.
inline Vec<float> exponential(Vec<float> x) {
  using F = Vec<float>;
  constexpr float kRounder =
      0x1.8p23f;  // added to a small number it leaves the nearest integer in the low bits
  constexpr uint32_t kRounderBits = 0x4b400000u;
  const F bounded = clamp<float>(x, -87.3f, 88.8f);
  const F shifted = bounded * 1.44269504f + kRounder, n = shifted - kRounder;
  const F r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  F e = splat(1.9875691500e-4f);
  e = e * r + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  e = e * (r * r) + r + 1.0f;
  // 2^(n - 1), as 2^128 is no float. n of NaN is any number.
  const VecBits half = (reinterpret_cast<VecBits>(shifted) - kRounderBits + 126u) << 23;
  return e * reinterpret_cast<F>(half) * 2.0f;
}

__attribute__((noinline)) inline Vec<float> sigmoid(Vec<float> z) {
  return 1.0f / (1.0f + exponential(-z));
}

__attribute__((noinline)) inline Vec<double> sigmoid(Vec<double> z) {
  Vec<double> result = {};
  for (int64_t i = 0; i < kLanes<double>; ++i) result[i] = 1.0 / (1.0 + std::exp(-z[i]));
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
      return z * sigmoid(z);
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
      const Vec<C> s = sigmoid(z);
      return g * (s * (one + z * (one - s)));
    }
    case Activation::kHardswish:
      return z <= C(-3) ? zero : (z >= C(3) ? g : g * (z / C(3) + C(0.5)));
    default:
      return g;
  }
}

}  // namespace kshot::cpu::KSHOT_ISA
