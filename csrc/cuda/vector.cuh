// Global memory in accesses of 16 bytes, elements converted to the type of sums on the way.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/dtype.cuh"

namespace kshot::cuda {

constexpr int kVectorBytes = 16;

// Elements of one 16-byte access.
template <class T>
constexpr int kVectorLanes = kVectorBytes / static_cast<int>(sizeof(T));

// `lanes` elements that are loaded and stored by one instruction (by several beyond 16 bytes).
template <class T, int lanes>
struct alignas(lanes * sizeof(T) < kVectorBytes ? lanes * sizeof(T) : kVectorBytes) Vector {
  T elements[lanes];
};

inline bool is_vector_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

// `from` is aligned to min(16, lanes * sizeof(T)) bytes.
template <class T, int lanes>
__device__ __forceinline__ void load_vector(Sum<T> (&to)[lanes], const T* from) {
  const Vector<T, lanes> vector = *reinterpret_cast<const Vector<T, lanes>*>(from);
#pragma unroll
  for (int i = 0; i < lanes; ++i) to[i] = to_sum(vector.elements[i]);
}

// `to` is aligned to min(16, lanes * sizeof(T)) bytes.
template <class T, int lanes>
__device__ __forceinline__ void store_vector(T* to, const Sum<T> (&from)[lanes]) {
  if constexpr (sizeof(T) == 2 && lanes % 2 == 0) {
    // One instruction converts two elements.
    using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
    Vector<Pair, lanes / 2> vector;
#pragma unroll
    for (int i = 0; i < lanes / 2; ++i) {
      const float2 pair = make_float2(from[2 * i], from[2 * i + 1]);
      if constexpr (std::is_same_v<T, __half>) {
        vector.elements[i] = __float22half2_rn(pair);
      } else {
        vector.elements[i] = __float22bfloat162_rn(pair);
      }
    }
    *reinterpret_cast<Vector<Pair, lanes / 2>*>(to) = vector;
  } else {
    Vector<T, lanes> vector;
#pragma unroll
    for (int i = 0; i < lanes; ++i) vector.elements[i] = from_sum<T>(from[i]);
    *reinterpret_cast<Vector<T, lanes>*>(to) = vector;
  }
}

// The first `count` elements, others zero; any alignment.
template <class T, int lanes>
__device__ __forceinline__ void load_first(Sum<T> (&to)[lanes], const T* from, int count) {
#pragma unroll
  for (int i = 0; i < lanes; ++i) to[i] = i < count ? to_sum(from[i]) : Sum<T>(0);
}

template <class T, int lanes>
__device__ __forceinline__ void store_first(T* to, const Sum<T> (&from)[lanes], int count) {
#pragma unroll
  for (int i = 0; i < lanes; ++i) {
    if (i < count) to[i] = from_sum<T>(from[i]);
  }
}

}  // namespace kshot::cuda
