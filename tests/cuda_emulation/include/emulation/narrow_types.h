// The 16-bit floating-point types and their pairs; arithmetic is float's, rounded once.
#pragma once

#include <cstdint>
#include <type_traits>

#include "emulation/narrow_formats.h"
#include "emulation/vector_types.h"

namespace emulation {

template <class Format>
struct Narrow {
  uint16_t bits;

  Narrow() = default;
  Narrow(float value) : bits(Format::from_float(value)) {}
  Narrow(double value) : bits(Format::from_float(round_to_odd(value))) {}
  template <class Integer, std::enable_if_t<std::is_integral_v<Integer>, int> = 0>
  Narrow(Integer value) : Narrow(static_cast<double>(value)) {}

  operator float() const { return Format::to_float(bits); }

  friend Narrow operator+(const Narrow& a, const Narrow& b) { return Narrow(float(a) + float(b)); }
  friend Narrow operator-(const Narrow& a, const Narrow& b) { return Narrow(float(a) - float(b)); }
  friend Narrow operator*(const Narrow& a, const Narrow& b) { return Narrow(float(a) * float(b)); }
  friend Narrow operator/(const Narrow& a, const Narrow& b) { return Narrow(float(a) / float(b)); }
  friend Narrow operator-(const Narrow& a) { return of_bits(a.bits ^ 0x8000u); }
  friend Narrow& operator+=(Narrow& a, const Narrow& b) { return a = a + b; }
  friend Narrow& operator-=(Narrow& a, const Narrow& b) { return a = a - b; }
  friend Narrow& operator*=(Narrow& a, const Narrow& b) { return a = a * b; }
  friend Narrow& operator/=(Narrow& a, const Narrow& b) { return a = a / b; }
  friend bool operator==(const Narrow& a, const Narrow& b) { return float(a) == float(b); }
  friend bool operator!=(const Narrow& a, const Narrow& b) { return float(a) != float(b); }
  friend bool operator<(const Narrow& a, const Narrow& b) { return float(a) < float(b); }
  friend bool operator>(const Narrow& a, const Narrow& b) { return float(a) > float(b); }
  friend bool operator<=(const Narrow& a, const Narrow& b) { return float(a) <= float(b); }
  friend bool operator>=(const Narrow& a, const Narrow& b) { return float(a) >= float(b); }

  static Narrow of_bits(unsigned bits) {
    Narrow narrow;
    narrow.bits = static_cast<uint16_t>(bits);
    return narrow;
  }
};

template <class Format>
struct alignas(4) NarrowPair {
  Narrow<Format> x, y;
};

}  // namespace emulation

// Functions that both types have, by the parts of their names. `value` is the scalar type, `pair` the pair.
#define KSHOT_EMULATION_NARROW(value, pair, short_name, pair_name)     \
  inline float __##short_name##2float(value a) {                       \
    return float(a);                                                   \
  }                                                                    \
  inline value __float2##short_name(float a) {                         \
    return value(a);                                                   \
  }                                                                    \
  inline value __float2##short_name##_rn(float a) {                    \
    return value(a);                                                   \
  }                                                                    \
  inline value __double2##short_name(double a) {                       \
    return value(a);                                                   \
  }                                                                    \
  inline value __int2##short_name##_rn(int a) {                        \
    return value(a);                                                   \
  }                                                                    \
  inline unsigned short __##short_name##_as_ushort(value a) {          \
    return a.bits;                                                     \
  }                                                                    \
  inline value __ushort_as_##short_name(unsigned short bits) {         \
    return value::of_bits(bits);                                       \
  }                                                                    \
  inline pair __float22##pair_name##_rn(float2 a) {                    \
    return {value(a.x), value(a.y)};                                   \
  }                                                                    \
  inline pair __floats2##pair_name##_rn(float a, float b) {            \
    return {value(a), value(b)};                                       \
  }                                                                    \
  inline pair __float2##pair_name##_rn(float a) {                      \
    return {value(a), value(a)};                                       \
  }                                                                    \
  inline float2 __##pair_name##2float2(pair a) {                       \
    return {float(a.x), float(a.y)};                                   \
  }                                                                    \
  inline pair __##short_name##2##pair_name(value a) {                  \
    return {a, a};                                                     \
  }                                                                    \
  inline pair __halves2##pair_name(value a, value b) {                 \
    return {a, b};                                                     \
  }                                                                    \
  inline float __low2float(pair a) {                                   \
    return float(a.x);                                                 \
  }                                                                    \
  inline float __high2float(pair a) {                                  \
    return float(a.y);                                                 \
  }                                                                    \
  inline value __low2##short_name(pair a) {                            \
    return a.x;                                                        \
  }                                                                    \
  inline value __high2##short_name(pair a) {                           \
    return a.y;                                                        \
  }                                                                    \
  inline value __hadd(value a, value b) {                              \
    return a + b;                                                      \
  }                                                                    \
  inline value __hsub(value a, value b) {                              \
    return a - b;                                                      \
  }                                                                    \
  inline value __hmul(value a, value b) {                              \
    return a * b;                                                      \
  }                                                                    \
  inline value __hdiv(value a, value b) {                              \
    return a / b;                                                      \
  }                                                                    \
  inline value __hneg(value a) {                                       \
    return -a;                                                         \
  }                                                                    \
  inline value __habs(value a) {                                       \
    return value::of_bits(a.bits & 0x7fffu);                           \
  }                                                                    \
  inline value __hfma(value a, value b, value c) {                     \
    return value(static_cast<double>(float(a)) * float(b) + float(c)); \
  }                                                                    \
  inline value __hmax(value a, value b) {                              \
    return value(fmaxf(float(a), float(b)));                           \
  }                                                                    \
  inline value __hmin(value a, value b) {                              \
    return value(fminf(float(a), float(b)));                           \
  }                                                                    \
  inline bool __hisnan(value a) {                                      \
    return a != a;                                                     \
  }                                                                    \
  inline pair __hadd2(pair a, pair b) {                                \
    return {a.x + b.x, a.y + b.y};                                     \
  }                                                                    \
  inline pair __hsub2(pair a, pair b) {                                \
    return {a.x - b.x, a.y - b.y};                                     \
  }                                                                    \
  inline pair __hmul2(pair a, pair b) {                                \
    return {a.x * b.x, a.y * b.y};                                     \
  }                                                                    \
  inline pair __hfma2(pair a, pair b, pair c) {                        \
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};             \
  }                                                                    \
  inline pair __hmax2(pair a, pair b) {                                \
    return {__hmax(a.x, b.x), __hmax(a.y, b.y)};                       \
  }                                                                    \
  inline pair __hmin2(pair a, pair b) {                                \
    return {__hmin(a.x, b.x), __hmin(a.y, b.y)};                       \
  }
