// Stands in for CUDA's header of matrix products by a warp. Which lane holds which element is of the
// emulator's choosing, as it is of the device's: only elementwise use of fragment::x has a meaning.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "emulation/error.h"

namespace emulation {

enum class Element { kFloat, kTf32, kFloat16, kBFloat16 };

template <class T>
constexpr Element kElementOf = std::is_same_v<T, float>    ? Element::kFloat
                               : std::is_same_v<T, __half> ? Element::kFloat16
                                                           : Element::kBFloat16;

// A matrix in memory, or a fragment of it in the lane's registers.
struct Tile {
  void* data;
  int rows, columns;
  Element element;
  bool column_major;
};

// Every lane copies its share between memory and its fragment, once the warp agrees on what is copied.
void copy_tile(const char* name, const Tile& fragment, void* memory, unsigned stride, bool store, Site site);
void multiply_tiles(const Tile& d, const Tile& a, const Tile& b, const Tile& c, Site site);

}  // namespace emulation

namespace nvcuda {
namespace wmma {

struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
namespace precision {
struct tf32 {};
}  // namespace precision
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int m, int n, int k, class T, class Layout = void>
class fragment {
  static constexpr bool kIsA = std::is_same_v<Use, matrix_a>, kIsB = std::is_same_v<Use, matrix_b>;
  static constexpr bool kTf32 = std::is_same_v<T, precision::tf32>;
  static constexpr int kRows = kIsB ? k : m, kColumns = kIsA ? k : n;
  static_assert(kIsA || kIsB || std::is_same_v<T, float>, "sums are float");
  static_assert(kTf32 ? (m == 16 && n == 16 && k == 8) : true, "tf32 comes in one shape");
  static_assert(m * n == 256 && (k == 16 || k == 8), "no such shape");

 public:
  using element_type = T;
  using storage_element_type = std::conditional_t<kTf32, float, T>;
  static constexpr int num_elements = kRows * kColumns / 32;
  storage_element_type x[num_elements];

  emulation::Tile tile(bool column_major) const {
    return {const_cast<storage_element_type*>(x), kRows, kColumns,
            kTf32 ? emulation::Element::kTf32 : emulation::kElementOf<storage_element_type>, column_major};
  }
};

template <class Use, int m, int n, int k, class T, class Layout, class Value>
void fill_fragment(fragment<Use, m, n, k, T, Layout>& to, const Value& value) {
  for (auto& x : to.x) x = value;
}

template <class Use, int m, int n, int k, class T, class Layout, class Memory>
void load_matrix_sync(fragment<Use, m, n, k, T, Layout>& to, const Memory* from, unsigned stride,
                      KSHOT_EMULATION_HERE) {
  static_assert(std::is_same_v<Memory, typename fragment<Use, m, n, k, T, Layout>::storage_element_type>);
  static_assert(!std::is_void_v<Layout>, "the layout of an accumulator is an argument");
  emulation::copy_tile("load_matrix_sync", to.tile(std::is_same_v<Layout, col_major>),
                       const_cast<Memory*>(from), stride, false, {file, line});
}

template <int m, int n, int k, class T>
void load_matrix_sync(fragment<accumulator, m, n, k, T>& to, const T* from, unsigned stride, layout_t layout,
                      KSHOT_EMULATION_HERE) {
  emulation::copy_tile("load_matrix_sync", to.tile(layout == mem_col_major), const_cast<T*>(from), stride,
                       false, {file, line});
}

template <int m, int n, int k, class T>
void store_matrix_sync(T* to, const fragment<accumulator, m, n, k, T>& from, unsigned stride, layout_t layout,
                       KSHOT_EMULATION_HERE) {
  emulation::copy_tile("store_matrix_sync", from.tile(layout == mem_col_major), to, stride, true,
                       {file, line});
}

template <int m, int n, int k, class T, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, m, n, k, float>& d, const fragment<matrix_a, m, n, k, T, LayoutA>& a,
              const fragment<matrix_b, m, n, k, T, LayoutB>& b,
              const fragment<accumulator, m, n, k, float>& c, KSHOT_EMULATION_HERE) {
  emulation::multiply_tiles(d.tile(false), a.tile(false), b.tile(false), c.tile(false), {file, line});
}

// Rounds to the nearest of 10 fraction bits, ties away from zero.
inline float __float_to_tf32(float value) {
  if (value != value) return value;
  return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xffffe000u);
}

}  // namespace wmma
}  // namespace nvcuda
