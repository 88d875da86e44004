// min and max of the global namespace, with CUDA's overloads: what is ambiguous there is ambiguous here.
#pragma once

#include <cmath>

#define KSHOT_EMULATION_MIN_MAX(A, B, T)                                                  \
  constexpr T min(A a, B b) {                                                             \
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); \
  }                                                                                       \
  constexpr T max(A a, B b) {                                                             \
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a); \
  }
#define KSHOT_EMULATION_MIN_MAX_INTEGER(T)           \
  KSHOT_EMULATION_MIN_MAX(T, T, T)                   \
  KSHOT_EMULATION_MIN_MAX(T, unsigned T, unsigned T) \
  KSHOT_EMULATION_MIN_MAX(unsigned T, T, unsigned T) \
  KSHOT_EMULATION_MIN_MAX(unsigned T, unsigned T, unsigned T)

KSHOT_EMULATION_MIN_MAX_INTEGER(int)
KSHOT_EMULATION_MIN_MAX_INTEGER(long)
KSHOT_EMULATION_MIN_MAX_INTEGER(long long)
#undef KSHOT_EMULATION_MIN_MAX_INTEGER
#undef KSHOT_EMULATION_MIN_MAX

// Of a number and a NaN the number.
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
inline double min(double a, double b) {
  return fmin(a, b);
}
inline double max(double a, double b) {
  return fmax(a, b);
}
inline double min(float a, double b) {
  return fmin(a, b);
}
inline double max(float a, double b) {
  return fmax(a, b);
}
inline double min(double a, float b) {
  return fmin(a, b);
}
inline double max(double a, float b) {
  return fmax(a, b);
}
