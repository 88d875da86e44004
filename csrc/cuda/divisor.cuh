// Division by a number that only the host knows, as a multiplication.
#pragma once

#include "cuda/platform.cuh"

namespace kshot::cuda {

// Exact where dividend * divisor < 2^31.
struct Divisor {
  int divisor = 1;
  uint32_t multiplier = 0x80000000u;

  Divisor() = default;
  explicit Divisor(int value)
      : divisor(value),
        multiplier(static_cast<uint32_t>((0x80000000u + static_cast<unsigned>(value) - 1) /
                                         static_cast<unsigned>(value))) {}

  __device__ __forceinline__ int quotient(int dividend) const {
    return static_cast<int>((static_cast<uint64_t>(static_cast<unsigned>(dividend)) * multiplier) >> 31);
  }
};

}  // namespace kshot::cuda
