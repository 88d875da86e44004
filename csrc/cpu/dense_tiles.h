// Tiles of sums in registers, for the matrix products of dense convolution: how many rows by how many
// vectors, and rows of vectors that end before the last lane.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

constexpr int64_t kVector = kLanes<float>;
// A tile's sums, a row of the panel and a broadcast fill the registers: 24 + 4 + 1 of 32, or 12 + 2 + 1
// of 16.
#if defined(__AVX512F__)
constexpr int kSums = 24, kMostVectors = 4;
#else
constexpr int kSums = 12, kMostVectors = 2;
#endif
constexpr int kMostRows = 12;
constexpr int64_t kLine = 64 / sizeof(float);
using V = Vec<float>;

// Rows of the tiles under panels of so many vectors.
constexpr int rows_of(int vectors) {
  return std::min(kMostRows, kSums / vectors);
}

// Cuts [0, count) into tiles of `rows`, and what is left over into smaller ones, and calls
// body(std::integral_constant<int, rows>, first) for each: few sizes keep the compiled code small.
template <int rows, class Body>
inline void for_each_tile(int64_t count, const Body& body, int64_t first = 0) {
  for (; first + rows <= count; first += rows) body(std::integral_constant<int, rows>{}, first);
  if constexpr (rows > 1) {
    constexpr int smaller = rows > 4 ? 4 : rows / 2;
    if (first < count) for_each_tile<smaller>(count, body, first);
  }
}

// Calls body(std::integral_constant<int, vectors>) with the vectors, up to `most`, that `width` channels
// take.
template <int most = kMostVectors, class Body>
inline void with_vectors(int64_t width, const Body& body) {
  if constexpr (most > 1) {
    if (width <= (most - 1) * kVector) return with_vectors<most - 1>(width, body);
  }
  body(std::integral_constant<int, most>{});
}

// A row of vectors that hold `width` values: the lanes beyond are zero, and not stored.
template <int vectors>
inline void load_row(V (&row)[vectors], const float* from, int64_t width) {
#pragma GCC unroll 4
  for (int v = 0; v + 1 < vectors; ++v) row[v] = load(from + v * kVector);
  const int64_t last = width - (vectors - 1) * kVector;
  from += (vectors - 1) * kVector;
  row[vectors - 1] = last == kVector ? load(from) : load_first(from, last);
}
template <int vectors>
inline void store_row(float* to, const V (&row)[vectors], int64_t width, bool past_caches) {
  const int64_t last = width - (vectors - 1) * kVector;
  if (past_caches && last == kVector) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store_past_caches(to + v * kVector, row[v]);
    return;
  }
#pragma GCC unroll 4
  for (int v = 0; v + 1 < vectors; ++v) store(to + v * kVector, row[v]);
  to += (vectors - 1) * kVector;
  if (last == kVector) {
    store(to, row[vectors - 1]);
  } else {
    store_first(to, row[vectors - 1], last);
  }
}

}  // namespace
}  // namespace kshot::cpu::KSHOT_ISA
