// Codes with an entry for each place of the kernel, [N, K, KH, KW], in the order of the CPU's kernels: place
// by place.
#pragma once

#include "ops/transpose.h"

namespace kshot {

inline bool has_places(const Tensor& code) {
  return code.dim() == 4;
}

// [KH * KW, N, K] of such a code; another one as it is, contiguous.
inline Tensor codes_by_place(const Tensor& code) {
  const Tensor given = as_contiguous(code);
  if (!has_places(code)) return given;
  const int64_t codes = code.size(0) * code.size(1), places = code.size(2) * code.size(3);
  const Sizes sizes{places, code.size(0), code.size(1)};
  Tensor result = empty_strided(sizes, contiguous_strides(sizes), code.scalar_type(), code);
  transpose_matrices(given, 0, result, codes * places, codes, places);
  return result;
}

// The way back of a gradient, to the shape of `code`.
inline Tensor codes_by_sample(const Tensor& by_place, const Tensor& code) {
  if (!has_places(code)) return by_place;
  const Sizes sizes = sizes_of(code);
  Tensor result = empty_strided(sizes, contiguous_strides(sizes), code.scalar_type(), code);
  const int64_t codes = code.size(0) * code.size(1), places = code.size(2) * code.size(3);
  transpose_matrices(by_place, 0, result, codes * places, places, codes);
  return result;
}

// What each place of a kernel takes of a code [N, K], which is the same everywhere, or of one by place.
struct CodesOfPlaces {
  explicit CodesOfPlaces(const Tensor& by_place)
      : data(static_cast<const float*>(by_place.data_ptr())),
        shots(by_place.size(by_place.dim() - 1)),
        samples(by_place.size(by_place.dim() - 2)),
        stride(by_place.dim() == 3 ? samples * shots : 0) {}

  // That of sample n at a place; the next samples' follow.
  const float* at(int64_t place, int64_t n) const { return data + offset(place, n); }
  int64_t offset(int64_t place, int64_t n) const { return place * stride + n * shots; }

  const float* data;
  int64_t shots, samples, stride;  // stride: from place to place
};

}  // namespace kshot
