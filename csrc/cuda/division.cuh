// Division: rounded up, and by a number that is known when a kernel is launched.
#pragma once

#include <cstdint>

#include "cuda/platform.cuh"

namespace kshot::cuda {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A multiplication and a shift, for values below 2^31 and divisors from 1 to 2^31. With s = ceil(log2 d) and
// factor = floor(2^32 (2^s - d) / d) + 1, (value * factor / 2^32 + value) / 2^s rounds down to value / d, and
// the sum fits in 32 bits.
class FastDivisor {
 public:
  FastDivisor() = default;
  // Divisors below 1 stand for empty ranges, in which nothing is divided.
  explicit FastDivisor(int64_t divisor) {
    const uint64_t d = divisor < 1 ? 1 : static_cast<uint64_t>(divisor);
    shift_ = 0;
    while ((uint64_t{1} << shift_) < d) ++shift_;
    factor_ = static_cast<uint32_t>((((uint64_t{1} << shift_) - d) << 32) / d + 1);
    divisor_ = static_cast<uint32_t>(d);
  }

  __host__ __device__ __forceinline__ int32_t divisor() const { return static_cast<int32_t>(divisor_); }
  __host__ __device__ __forceinline__ int32_t quotient(int32_t value) const {
    const uint32_t v = static_cast<uint32_t>(value);
    const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(v) * factor_) >> 32);
    return static_cast<int32_t>((high + v) >> shift_);
  }
  __host__ __device__ __forceinline__ int32_t remainder(int32_t value, int32_t quotient) const {
    return value - quotient * static_cast<int32_t>(divisor_);
  }

 private:
  uint32_t divisor_ = 1, factor_ = 1, shift_ = 0;
};

}  // namespace kshot::cuda
