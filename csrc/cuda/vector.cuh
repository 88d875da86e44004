// Global memory in accesses of 16 bytes, elements converted to the type of sums on the way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/dtype.cuh"

namespace kshot::cuda {

constexpr int kVectorBytes = 16;

// Elements of one 16-byte access.
template <class T>
constexpr int kVectorLanes = kVectorBytes / static_cast<int>(sizeof(T));

inline bool is_vector_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

// What one instruction moves. Plain words: the copy of a struct of half types is one access for each of them.
template <size_t bytes>
struct __attribute__((may_alias)) alignas(bytes < kVectorBytes ? bytes : kVectorBytes) Words {
  uint32_t words[bytes / 4];
};

// Two elements of a 16-bit type in a word.
template <class T>
using PairOf = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;

template <class T>
__device__ __forceinline__ float2 unpack_pair(uint32_t word) {
  PairOf<T> pair;
  std::memcpy(&pair, &word, sizeof(word));
  if constexpr (std::is_same_v<T, __half>) {
    return __half22float2(pair);
  } else {
    return __bfloat1622float2(pair);
  }
}

template <class T>
__device__ __forceinline__ uint32_t pack_pair(float2 values) {
  PairOf<T> pair;
  if constexpr (std::is_same_v<T, __half>) {
    pair = __float22half2_rn(values);
  } else {
    pair = __float22bfloat162_rn(values);
  }
  uint32_t word;
  std::memcpy(&word, &pair, sizeof(word));
  return word;
}

// What 16 bytes (or fewer) of elements are in the type of sums.
template <class T, int lanes>
__device__ __forceinline__ void unpack(Sum<T> (&to)[lanes], const Words<lanes * sizeof(T)>& from) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < lanes / 2; ++i) {
      const float2 pair = unpack_pair<T>(from.words[i]);
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  } else {
    std::memcpy(to, &from, sizeof(from));
  }
}

template <class T, int lanes>
__device__ __forceinline__ Words<lanes * sizeof(T)> pack(const Sum<T> (&from)[lanes]) {
  Words<lanes * sizeof(T)> to;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < lanes / 2; ++i) {
      to.words[i] = pack_pair<T>(make_float2(from[2 * i], from[2 * i + 1]));
    }
  } else {
    std::memcpy(&to, from, sizeof(to));
  }
  return to;
}

// Access to memory aligned to the size of the elements or to 16 bytes.
template <class T, int lanes>
__device__ __forceinline__ void load_vector(Sum<T> (&to)[lanes], const T* from) {
  const Words<lanes * sizeof(T)> raw = *reinterpret_cast<const Words<lanes * sizeof(T)>*>(from);
  unpack<T, lanes>(to, raw);
}

template <class T, int lanes>
__device__ __forceinline__ void store_vector(T* to, const Sum<T> (&from)[lanes]) {
  *reinterpret_cast<Words<lanes * sizeof(T)>*>(to) = pack<T, lanes>(from);
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
