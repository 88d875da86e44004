// Vectors of the instruction set that this file is compiled for: loads that widen to the sum type, stores
// that round.
//
// The kernels are written once on Vec<C>, a GCC/Clang vector of kVectorBytes, and compiled once per
// instruction set into its own namespace KSHOT_ISA. Half types are widened by shifts (bfloat16) or F16C
// (float16), in portable builds by integer arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/dtype.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace kshot::cpu::KSHOT_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class C>
struct VectorOf {
  typedef C type __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t lanes = kVectorBytes / sizeof(C);
};
template <class C>
using Vec = typename VectorOf<C>::type;
template <class C>
constexpr int64_t kLanes = VectorOf<C>::lanes;

typedef uint32_t VecBits __attribute__((vector_size(kVectorBytes)));
typedef uint16_t VecHalfBits __attribute__((vector_size(kVectorBytes / 2)));

// A difference, since compilers may drop the zero of it: adding one to -0 would change it.
template <class C>
inline Vec<C> splat(C value) {
  return value - Vec<C>{};
}

// Halves are added, so that few additions wait for one another.
template <class C>
inline C sum_of_lanes(Vec<C> v) {
  C lanes[kLanes<C>];
  std::memcpy(lanes, &v, sizeof v);
#pragma GCC unroll 4
  for (int64_t half = kLanes<C> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <class C>
inline Vec<C> square_root(Vec<C> v) {
  for (int64_t i = 0; i < kLanes<C>; ++i) v[i] = std::sqrt(v[i]);
  return v;
}
#if defined(__AVX512F__)
template <>
inline Vec<float> square_root<float>(Vec<float> v) {
  return reinterpret_cast<Vec<float>>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(v)));
}
template <>
inline Vec<double> square_root<double>(Vec<double> v) {
  return reinterpret_cast<Vec<double>>(_mm512_maskz_sqrt_pd(0xff, reinterpret_cast<__m512d>(v)));
}
#elif defined(__AVX__)
template <>
inline Vec<float> square_root<float>(Vec<float> v) {
  return reinterpret_cast<Vec<float>>(_mm256_sqrt_ps(reinterpret_cast<__m256>(v)));
}
template <>
inline Vec<double> square_root<double>(Vec<double> v) {
  return reinterpret_cast<Vec<double>>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(v)));
}
#endif

inline Vec<float> load(const float* p) {
  Vec<float> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec<float> v) {
  std::memcpy(p, &v, sizeof v);
}

inline Vec<double> load(const double* p) {
  Vec<double> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(double* p, Vec<double> v) {
  std::memcpy(p, &v, sizeof v);
}

inline Vec<float> load(const BFloat16* p) {
  VecHalfBits half;
  std::memcpy(&half, p, sizeof half);
  const VecBits bits = __builtin_convertvector(half, VecBits) << 16;
  return reinterpret_cast<Vec<float>>(bits);
}
inline void store(BFloat16* p, Vec<float> v) {
  const VecBits bits = reinterpret_cast<VecBits>(v);
  const VecBits to_nearest_even = bits + 0x7fffu + ((bits >> 16) & 1u);
  const VecBits is_nan = reinterpret_cast<VecBits>(v != v);
  const VecBits rounded = (is_nan & (bits | 0x400000u)) | (~is_nan & to_nearest_even);
  const VecHalfBits half = __builtin_convertvector(rounded >> 16, VecHalfBits);
  std::memcpy(p, &half, sizeof half);
}

#if defined(__AVX512F__)
inline Vec<float> load(const Float16* p) {
  // The masked form: g++ 12 warns of the plain one's undefined pass-through.
  return reinterpret_cast<Vec<float>>(
      _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
inline void store(Float16* p, Vec<float> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
inline Vec<float> load(const Float16* p) {
  return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void store(Float16* p, Vec<float> v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
}
#else
inline float widen(Float16 half) {
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000u) << 16;
  const uint32_t magnitude = half.bits & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {  // infinity and NaN
    bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x400u) {
    bits = (magnitude << 13) + (112u << 23);
  } else {  // subnormal: an exact multiple of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &value, sizeof bits);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline Float16 narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (bits >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 2^16 or beyond
  if (bits <
      0x38800000u) {  // subnormal result: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  const uint32_t to_nearest_even = bits + 0xfffu + ((bits >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((to_nearest_even - (112u << 23)) >> 13))};
}
inline Vec<float> load(const Float16* p) {
  Vec<float> v = {};
  for (int64_t i = 0; i < kLanes<float>; ++i) v[i] = widen(p[i]);
  return v;
}
inline void store(Float16* p, Vec<float> v) {
  for (int64_t i = 0; i < kLanes<float>; ++i) p[i] = narrow(v[i]);
}
#endif

// Stores that leave the caches alone: for results larger than these, which are read much later. They write
// about twice as fast as plain stores, which first read the line they overwrite. finish_stores() comes before
// other threads read.
template <class T>
inline void store_past_caches(T* p, Vec<Sum<T>> v) {
  store(p, v);
}
#if defined(__AVX512F__)
inline void store_past_caches(float* p, Vec<float> v) {
  _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
}
#elif defined(__AVX__)
inline void store_past_caches(float* p, Vec<float> v) {
  _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
}
#endif
inline void finish_stores() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}
// Whether store_past_caches may write rows of so many elements one after the other: all aligned to vectors.
template <class T>
inline bool can_pass_caches(const T* p, int64_t row) {
  return reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0 && row % kLanes<Sum<T>> == 0;
}

// The first `count` <= kLanes elements, the other lanes zero.
template <class T>
inline Vec<Sum<T>> load_first(const T* p, int64_t count) {
  T buffer[kLanes<Sum<T>>] = {};
  std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(T));
  return load(buffer);
}
template <class T>
inline void store_first(T* p, Vec<Sum<T>> v, int64_t count) {
  T buffer[kLanes<Sum<T>>];
  store(buffer, v);
  std::memcpy(p, buffer, static_cast<size_t>(count) * sizeof(T));
}

#if defined(__AVX512F__)
inline Vec<float> load_first(const float* p, int64_t count) {
  return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p));
}
inline void store_first(float* p, Vec<float> v, int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), reinterpret_cast<__m512>(v));
}
#endif

// How much of a vector counts: all lanes, known when compiling, or the first `count` of them.
struct WholeVector {
  static constexpr bool whole = true;
};
struct CutVector {
  static constexpr bool whole = false;
  int64_t count;
};

template <class T, class Lanes>
inline Vec<Sum<T>> load_lanes(const T* p, Lanes lanes) {
  if constexpr (Lanes::whole) {
    return load(p);
  } else {
    return load_first(p, lanes.count);
  }
}
template <class T, class Lanes>
inline void store_lanes(T* p, Vec<Sum<T>> v, Lanes lanes, bool past_caches = false) {
  if constexpr (Lanes::whole) {
    if (past_caches) {
      store_past_caches(p, v);
    } else {
      store(p, v);
    }
  } else {
    store_first(p, v, lanes.count);
  }
}

// Calls body with WholeVector if `count` is a whole vector of C, else with CutVector.
template <class C, class Body>
inline void with_lanes(int64_t count, const Body& body) {
  if (count == kLanes<C>) {
    body(WholeVector{});
  } else {
    body(CutVector{count});
  }
}

}  // namespace kshot::cpu::KSHOT_ISA
