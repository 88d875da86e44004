// The tile of a matrix product that a block of the dense kernels makes: operands in shared memory, sums in
// registers, on tensor cores or in plain float32.
//
//     sums[r, c] += sum_d left[r, d] * right[d, c]        d: a chunk of the reduction, 64 bytes long
//
//        right:  kDepth x kColumns               warps lie on the tile as kWarpRows x kWarpColumns;
//     left:      +---------------+               a warp owns a rectangle of 16 x 16 sums, in plain
//     kRows x    |  w0   |  w1   |               float32 a thread owns every so-many-th row and column,
//     kDepth     |  w2   |  w3   |               whichever keeps its 16-byte reads on different banks
//
// Rows in shared memory are padded by 16 bytes (depth innermost) or 8 elements (depth outermost), so that
// neither fragments nor copies meet a bank more than twice. Bound by tensor cores, or by the FMA pipes.
#pragma once

#include <type_traits>

#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace kshot::cuda {
namespace {

template <class Element, int rows, int columns, int warp_rows, int warp_columns>
struct TileShape {
  using T = Element;
  static constexpr int kRows = rows, kColumns = columns, kDepth = 64 / static_cast<int>(sizeof(T));
  static constexpr int kWarpRows = warp_rows, kWarpColumns = warp_columns;
  static constexpr int kThreads = kWarpSize * warp_rows * warp_columns;
};

// One operand's chunk in shared memory: [extent, depth] where depth is innermost, otherwise [depth, extent].
template <class T, int extent, int depth, bool depth_innermost>
struct OperandLayout {
  static constexpr bool kDepthInnermost = depth_innermost;
  static constexpr int kWidth = depth_innermost ? depth : extent, kHeight = depth_innermost ? extent : depth;
  static constexpr int kStride = kWidth + (depth_innermost ? kVectorLanes<T> : 8);
  static constexpr int kSize = kHeight * kStride;

  static __device__ __forceinline__ int at(int e, int d) {
    return depth_innermost ? e * kStride + d : d * kStride + e;
  }
};

template <class Shape, bool depth_innermost>
using LeftLayout = OperandLayout<typename Shape::T, Shape::kRows, Shape::kDepth, depth_innermost>;
template <class Shape, bool depth_innermost>
using RightLayout = OperandLayout<typename Shape::T, Shape::kColumns, Shape::kDepth, depth_innermost>;

// Finished sums in shared memory, [kRows, kStagingStride] floats: the half warps of a fragment's 8-byte
// stores and rows of 16-byte reads fall on different banks.
template <class Shape>
constexpr int kStagingStride = Shape::kColumns + 8;
template <class Shape>
constexpr int kStagingBytes = Shape::kRows * kStagingStride<Shape> * static_cast<int>(sizeof(float));

template <class T>
struct Fragments {
  using Element = T;
  static constexpr int kDepth = 16;
};
template <>
struct Fragments<float> {
  using Element = nvcuda::wmma::precision::tf32;
  static constexpr int kDepth = 8;
};

// `right_rounded`: elements of the right operand are tf32 already when they come to shared memory.
template <class Shape_, class Left_, class Right_, bool right_rounded>
class TensorCoreTile {
 public:
  using Shape = Shape_;
  using Left = Left_;
  using Right = Right_;
  using T = typename Shape::T;
  static constexpr bool kRoundsRight = right_rounded && std::is_same_v<T, float>;

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r) {
#pragma unroll
      for (int c = 0; c < kColumnFragments; ++c) nvcuda::wmma::fill_fragment(sums_[r][c], 0.0f);
    }
  }

  __device__ __forceinline__ void multiply(const T* left, const T* right) {
    namespace wmma = nvcuda::wmma;
    using LeftMajor = std::conditional_t<Left::kDepthInnermost, wmma::row_major, wmma::col_major>;
    using RightMajor = std::conditional_t<Right::kDepthInnermost, wmma::col_major, wmma::row_major>;
    using Element = typename Fragments<T>::Element;
    const int row = first_row(), column = first_column();
#pragma unroll
    for (int d = 0; d < Shape::kDepth; d += kDepth) {
      wmma::fragment<wmma::matrix_a, 16, 16, kDepth, Element, LeftMajor> a[kRowFragments];
      wmma::fragment<wmma::matrix_b, 16, 16, kDepth, Element, RightMajor> b[kColumnFragments];
#pragma unroll
      for (int c = 0; c < kColumnFragments; ++c) {
        wmma::load_matrix_sync(b[c], right + Right::at(column + 16 * c, d), Right::kStride);
        if constexpr (!kRoundsRight) round(b[c]);
      }
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r) {
        wmma::load_matrix_sync(a[r], left + Left::at(row + 16 * r, d), Left::kStride);
        round(a[r]);
#pragma unroll
        for (int c = 0; c < kColumnFragments; ++c) wmma::mma_sync(sums_[r][c], a[r], b[c], sums_[r][c]);
      }
    }
  }

  // How an element of the right operand is to be stored.
  static __device__ __forceinline__ float rounded(float value) {
    if constexpr (kRoundsRight) return nvcuda::wmma::__float_to_tf32(value);
    return value;
  }

  __device__ __forceinline__ void store(float* staging) const {
    const int row = first_row(), column = first_column();
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r) {
#pragma unroll
      for (int c = 0; c < kColumnFragments; ++c) {
        nvcuda::wmma::store_matrix_sync(staging + (row + 16 * r) * kStagingStride<Shape> + column + 16 * c,
                                        sums_[r][c], kStagingStride<Shape>, nvcuda::wmma::mem_row_major);
      }
    }
  }

 private:
  static constexpr int kDepth = Fragments<T>::kDepth;
  static constexpr int kRowFragments = Shape::kRows / Shape::kWarpRows / 16,
                       kColumnFragments = Shape::kColumns / Shape::kWarpColumns / 16;

  static __device__ __forceinline__ int first_row() {
    return static_cast<int>(threadIdx.x) / kWarpSize / Shape::kWarpColumns * 16 * kRowFragments;
  }
  static __device__ __forceinline__ int first_column() {
    return static_cast<int>(threadIdx.x) / kWarpSize % Shape::kWarpColumns * 16 * kColumnFragments;
  }

  // Tensor cores drop the bits that tf32 lacks; rounding instead keeps the sums without bias.
  template <class Fragment>
  static __device__ __forceinline__ void round(Fragment& fragment) {
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < fragment.num_elements; ++i) {
        fragment.x[i] = nvcuda::wmma::__float_to_tf32(fragment.x[i]);
      }
    }
  }

  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, kDepth, float> sums_[kRowFragments]
                                                                                [kColumnFragments];
};

template <class Shape_, class Left_, class Right_>
class PlainTile {
 public:
  using Shape = Shape_;
  using Left = Left_;
  using Right = Right_;
  using T = float;
  static_assert(std::is_same_v<typename Shape::T, float>, "plain products are float32");

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums_[r][c] = 0.0f;
    }
  }

  __device__ __forceinline__ void multiply(const float* left, const float* right) {
    const int row = static_cast<int>(threadIdx.x) / kThreadColumns,
              column = static_cast<int>(threadIdx.x) % kThreadColumns;
#pragma unroll 1
    for (int first = 0; first < Shape::kDepth; first += kStep) {
      float a[kRows][kStep], b[kColumns][kStep];
      load<Left, kRows, kThreadRows>(a, left, row, first);
      load<Right, kColumns, kThreadColumns>(b, right, column, first);
#pragma unroll
      for (int d = 0; d < kStep; ++d) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) sums_[r][c] = fmaf(a[r][d], b[c][d], sums_[r][c]);
        }
      }
    }
  }

  static __device__ __forceinline__ float rounded(float value) { return value; }

  __device__ __forceinline__ void store(float* staging) const {
    const int row = static_cast<int>(threadIdx.x) / kThreadColumns,
              column = static_cast<int>(threadIdx.x) % kThreadColumns;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float* to = staging + index<Left, kThreadRows>(row, r) * kStagingStride<Shape>;
      if constexpr (Right::kDepthInnermost) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) to[index<Right, kThreadColumns>(column, c)] = sums_[r][c];
      } else {
#pragma unroll
        for (int c = 0; c < kColumns; c += 4) {
          const float neighbours[4] = {sums_[r][c], sums_[r][c + 1], sums_[r][c + 2], sums_[r][c + 3]};
          store_vector<float, 4>(to + index<Right, kThreadColumns>(column, c), neighbours);
        }
      }
    }
  }

 private:
  static constexpr int kThreadRows = 16, kThreadColumns = Shape::kThreads / kThreadRows;
  static constexpr int kRows = Shape::kRows / kThreadRows, kColumns = Shape::kColumns / kThreadColumns;
  static constexpr int kStep = 4;  // a 16-byte read along the depth, where that is innermost
  static_assert(kRows % 4 == 0 && kColumns % 4 == 0, "a 16-byte read across the depth, where it is not");

  // The i-th row or column of a thread: a read of 16 bytes along its axis takes four neighbours, one along
  // the depth keeps the threads' rows next to each other.
  template <class Layout, int threads>
  static __device__ __forceinline__ int index(int thread, int i) {
    return Layout::kDepthInnermost ? thread + threads * i : 4 * thread + 4 * threads * (i / 4) + i % 4;
  }

  template <class Layout, int count, int threads>
  static __device__ __forceinline__ void load(float (&values)[count][kStep], const float* operand, int thread,
                                              int depth) {
    if constexpr (Layout::kDepthInnermost) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
        load_vector<float, kStep>(values[i], operand + Layout::at(index<Layout, threads>(thread, i), depth));
      }
    } else {
#pragma unroll
      for (int d = 0; d < kStep; ++d) {
#pragma unroll
        for (int i = 0; i < count; i += 4) {
          float row[4];
          load_vector<float, 4>(row, operand + Layout::at(index<Layout, threads>(thread, i), depth + d));
#pragma unroll
          for (int j = 0; j < 4; ++j) values[i + j][d] = row[j];
        }
      }
    }
  }

  float sums_[kRows][kColumns];
};

}  // namespace
}  // namespace kshot::cuda
