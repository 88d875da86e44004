// Bits of float16 and bfloat16 to float and back, rounding to the nearest, ties to even.
#pragma once

#include <cmath>
#include <cstdint>

#include "emulation/integer_math.h"

namespace emulation {

// The NaN that CUDA's conversions give.
constexpr uint16_t kNarrowNan = 0x7fff;

struct BFloat16Format {
  static float to_float(uint16_t bits) { return same_bits<float>(static_cast<uint32_t>(bits) << 16); }

  static uint16_t from_float(float value) {
    if (value != value) return kNarrowNan;
    const uint32_t bits = same_bits<uint32_t>(value);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

struct Float16Format {
  static float to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return same_bits<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    // Read as a float, exponent and fraction give the value times 2^-112, subnormal numbers included.
    const float value = same_bits<float>(magnitude << 13) * 0x1p112f;
    return same_bits<float>(sign | same_bits<uint32_t>(value));
  }

  static uint16_t from_float(float value) {
    if (value != value) return kNarrowNan;
    const uint32_t bits = same_bits<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves multiples of 2^-24 in the fraction
      const uint32_t sum = same_bits<uint32_t>(same_bits<float>(magnitude) + 0.5f);
      return static_cast<uint16_t>(sign | (sum - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
};

// A double to a float that a second rounding, to fewer bits, does not falsify: inexact results are odd.
inline float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const uint32_t bits = same_bits<uint32_t>(nearest);
  if (static_cast<double>(nearest) == value || !std::isfinite(nearest) || (bits & 1u)) return nearest;
  return std::nextafterf(nearest, static_cast<double>(nearest) < value ? INFINITY : -INFINITY);
}

}  // namespace emulation
