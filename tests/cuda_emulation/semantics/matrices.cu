#include "cuda/platform.cuh"
#include "kernels.h"

namespace semantics {
namespace {

namespace wmma = nvcuda::wmma;

template <int m, int n, int k, class T, bool by_columns>
__global__ void multiply_kernel(const T* a, const T* b, float* c) {
  constexpr bool tf32 = std::is_same_v<T, float>;
  using Element = std::conditional_t<tf32, wmma::precision::tf32, T>;
  using Layout = std::conditional_t<by_columns, wmma::col_major, wmma::row_major>;
  constexpr auto layout = by_columns ? wmma::mem_col_major : wmma::mem_row_major;
  wmma::fragment<wmma::matrix_a, m, n, k, Element, Layout> part_a;
  wmma::fragment<wmma::matrix_b, m, n, k, Element, Layout> part_b;
  wmma::fragment<wmma::accumulator, m, n, k, float> sums;
  wmma::load_matrix_sync(part_a, a, by_columns ? m : k);
  wmma::load_matrix_sync(part_b, b, by_columns ? k : n);
  wmma::load_matrix_sync(sums, c, by_columns ? m : n, layout);
  if constexpr (tf32) {
    for (int i = 0; i < part_a.num_elements; ++i) part_a.x[i] = wmma::__float_to_tf32(part_a.x[i]);
    for (int i = 0; i < part_b.num_elements; ++i) part_b.x[i] = wmma::__float_to_tf32(part_b.x[i]);
  }
  wmma::mma_sync(sums, part_a, part_b, sums);
  wmma::store_matrix_sync(c, sums, by_columns ? m : n, layout);
}

template <int m, int n, int k, class T>
void run(const void* a, const void* b, float* c, bool by_columns) {
  KSHOT_LAUNCH((by_columns ? multiply_kernel<m, n, k, T, true> : multiply_kernel<m, n, k, T, false>), 1, 32,
               0, nullptr, static_cast<const T*>(a), static_cast<const T*>(b), c);
}

}  // namespace

void multiply(const void* a, const void* b, float* c, int which, bool by_columns) {
  if (which == 0) run<16, 16, 16, __half>(a, b, c, by_columns);
  if (which == 1) run<16, 16, 16, __nv_bfloat16>(a, b, c, by_columns);
  if (which == 2) run<16, 16, 8, float>(a, b, c, by_columns);
  if (which == 3) run<32, 8, 16, __half>(a, b, c, by_columns);
  if (which == 4) run<8, 32, 16, __half>(a, b, c, by_columns);
}

}  // namespace semantics
