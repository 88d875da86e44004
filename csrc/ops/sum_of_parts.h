// Sums that tasks made of their own shares of the work, joined.
#pragma once

#include <algorithm>

#include "ops/tensor_utils.h"

namespace kshot {

template <class C>
void add_parts(const C* parts, int64_t outer, int64_t count, int64_t inner, C* result) {
  std::fill(result, result + outer * inner, C(0));
  for (int64_t o = 0; o < outer; ++o, result += inner) {
    for (int64_t part = 0; part < count; ++part, parts += inner) {
      for (int64_t i = 0; i < inner; ++i) result[i] += parts[i];
    }
  }
}

// Sum over dimension `dim` of a contiguous tensor of sums, in order: what it gives does not depend on the
// threads.
inline Tensor sum_of_parts(const Tensor& parts, size_t dim) {
  Sizes sizes = sizes_of(parts);
  const int64_t count = sizes[dim], inner = product(sizes, dim + 1);
  sizes.erase(sizes.begin() + static_cast<int64_t>(dim));
  Tensor result = empty_strided(sizes, contiguous_strides(sizes), parts.scalar_type(), parts);
  const int64_t outer = inner > 0 ? product(sizes) / inner : 0;
  if (dtype_of(parts) == DType::kFloat64) {
    add_parts(static_cast<const double*>(parts.data_ptr()), outer, count, inner,
              static_cast<double*>(result.data_ptr()));
  } else {
    add_parts(static_cast<const float*>(parts.data_ptr()), outer, count, inner,
              static_cast<float*>(result.data_ptr()));
  }
  return result;
}

}  // namespace kshot
