// Global memory in accesses of 16 bytes, or as many as rows allow, elements converted to the type of sums on
// the way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "common/pixels.h"
#include "cuda/dtype.cuh"

namespace kshot::cuda {

constexpr int kVectorBytes = 16;

// Elements of one 16-byte access.
template <class T>
constexpr int kVectorLanes = kVectorBytes / static_cast<int>(sizeof(T));

inline bool is_multiple(int64_t value, int64_t of) {
  return value % of == 0;
}

inline bool is_vector_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

// Widths that an access to rows may have, in bytes, the widest first.
template <int... widths>
struct AccessWidths {
  // The widest that fits rows of `row` elements side by side at `data`.
  static int widest(const void* data, int64_t row, int64_t element_size) {
    for (const int bytes : {widths...}) {
      if (is_multiple(row * element_size, bytes) && reinterpret_cast<uintptr_t>(data) % bytes == 0)
        return bytes;
    }
    return static_cast<int>(element_size);
  }

  // The widest that fits the `row` channels of each pixel.
  static int widest(const Pixels<void>& pixels, int64_t row, int64_t element_size) {
    return widest(pixels.data, std::gcd(row, pixels.stride), element_size);
  }

  // Calls body(std::integral_constant<int, bytes>), for elements of type T.
  template <class T, class Body>
  static __device__ __forceinline__ void with(int bytes, const Body& body) {
    (try_width<T, widths>(bytes, body), ...);
  }

 private:
  template <class T, int width, class Body>
  static __device__ __forceinline__ void try_width(int bytes, const Body& body) {
    if constexpr (width >= static_cast<int>(sizeof(T))) {
      if (bytes == width) body(std::integral_constant<int, width>{});
    }
  }
};

// Of results: neighbouring threads fill sectors whatever the width.
using StoreWidths = AccessWidths<kVectorBytes, 8, 4, 2>;

// Elements as they lie in memory, on their way through registers.
template <size_t bytes>
struct Words {
  uint32_t words[bytes / 4];
};

// Global or shared memory, aligned to 16 bytes, or to `bytes` if fewer. nvcc makes one instruction of a load;
// a store it takes apart at times (see store_global).
template <size_t bytes>
__device__ __forceinline__ Words<bytes> load_words(const void* from) {
  Words<bytes> to;
  if constexpr (bytes % 16 == 0) {
#pragma unroll
    for (size_t i = 0; i < bytes / 16; ++i) {
      const uint4 vector = static_cast<const uint4*>(from)[i];
      to.words[4 * i] = vector.x;
      to.words[4 * i + 1] = vector.y;
      to.words[4 * i + 2] = vector.z;
      to.words[4 * i + 3] = vector.w;
    }
  } else if constexpr (bytes == 8) {
    const uint2 vector = *static_cast<const uint2*>(from);
    to.words[0] = vector.x;
    to.words[1] = vector.y;
  } else {
    static_assert(bytes == 4, "an access has 4, 8, or a multiple of 16 bytes");
    to.words[0] = *static_cast<const uint32_t*>(from);
  }
  return to;
}

template <size_t bytes>
__device__ __forceinline__ void store_words(void* to, const Words<bytes>& from) {
  if constexpr (bytes % 16 == 0) {
#pragma unroll
    for (size_t i = 0; i < bytes / 16; ++i) {
      static_cast<uint4*>(to)[i] =
          make_uint4(from.words[4 * i], from.words[4 * i + 1], from.words[4 * i + 2], from.words[4 * i + 3]);
    }
  } else if constexpr (bytes == 8) {
    *static_cast<uint2*>(to) = make_uint2(from.words[0], from.words[1]);
  } else {
    static_assert(bytes == 4, "an access has 4, 8, or a multiple of 16 bytes");
    *static_cast<uint32_t*>(to) = from.words[0];
  }
}

// Global memory only, aligned to 16 bytes: one store whatever surrounds it, for this spelling names the
// instruction. Results that other kernels read are of no use to this processor's first cache.
__device__ __forceinline__ void store_global(void* to, const Words<kVectorBytes>& from) {
  __stcg(static_cast<uint4*>(to), make_uint4(from.words[0], from.words[1], from.words[2], from.words[3]));
}

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

// Access to memory aligned to the size of all elements together, or to 16 bytes.
template <class T, int lanes>
__device__ __forceinline__ void load_vector(Sum<T> (&to)[lanes], const T* from) {
  unpack<T, lanes>(to, load_words<lanes * sizeof(T)>(from));
}

// The same, or a single element.
template <class T, int lanes>
__device__ __forceinline__ void load_lanes(Sum<T> (&to)[lanes], const T* from) {
  if constexpr (lanes == 1) {
    to[0] = to_sum(*from);
  } else {
    load_vector<T, lanes>(to, from);
  }
}

template <class T, int lanes>
__device__ __forceinline__ void store_vector(T* to, const Sum<T> (&from)[lanes]) {
  if constexpr (lanes == 1) {
    *to = from_sum<T>(from[0]);
  } else {
    store_words(to, pack<T, lanes>(from));
  }
}

template <class T>
__device__ __forceinline__ void store_global_vector(T* to, const Sum<T> (&from)[kVectorLanes<T>]) {
  store_global(to, pack<T, kVectorLanes<T>>(from));
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
