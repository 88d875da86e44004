// Small matrices transposed on the CPU.
#pragma once

#include "ops/tensor_utils.h"

namespace kshot {

template <class T>
void transpose_matrix(const T* from, T* to, int64_t rows, int64_t columns) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) to[c * rows + r] = from[r * columns + c];
  }
}

// Every matrix [rows, columns] of `from` as [columns, rows] in `to`. One begins `from_stride` elements after
// the other, and in `to` `to_stride`; `to` decides how many there are.
inline void transpose_matrices(const Tensor& from, int64_t from_stride, Tensor& to, int64_t to_stride,
                               int64_t rows, int64_t columns) {
  constexpr int64_t kGrain = 32768;  // elements that pay for waking a thread
  const int64_t elements = product(sizes_of(to)), matrices = to_stride ? elements / to_stride : 0;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, rows * columns));
  const auto each = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* source = static_cast<const T*>(from.data_ptr());
    T* target = static_cast<T*>(to.data_ptr());
    torch::stable::parallel_for(0, matrices, grain, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        transpose_matrix(source + m * from_stride, target + m * to_stride, rows, columns);
      }
    });
  };
  dispatch_dtype(dtype_of(to), each);
}

}  // namespace kshot
