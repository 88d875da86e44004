// Gradients of a weight dictionary and of its codes, where every sample has a code of its own:
//
//     G[n, o, t, i]           = gate[n, o] * sum_p grad[n, p, o] * input[n, p at t, i]
//     grad_weight[k, o, t, i] = sum_n code[n, k] * G[n, o, t, i]
//     grad_code[n, k]         = sum_{o, t, i} G[n, o, t, i] * weight[k, o, t, i]
//
// A block owns kRows output channels by kColumns pairs (t, i) of all copies and walks the samples. G of this
// tile, a matrix product over one sample's positions, is never stored: a thread keeps its elements of
// kHeldSamples samples in registers, then passes once over its elements of the K copies. So grad_weight,
// which no other block touches, and weight are read once for kHeldSamples samples. Dot products of a tile go
// to the workspace, [tiles, N, K], and are added over the tiles by column_sum_kernel. Bound by the products
// where samples have many positions, otherwise by the copies' bytes, 12 / kHeldSamples a sample and element.
#pragma once

#include "cuda/dense_positions.cuh"

namespace kshot::cuda {
namespace {

struct PerSampleGradientParameters {
  PositionProducts products;
  const void* copies;
  float* grad_weight;
  int64_t shot_stride, out_stride, tap_stride;
  const float *code, *gate;
  int64_t code_stride, gate_stride;
  float* dots;  // [tiles, samples, shots]
  int32_t samples, shots, column_tiles;
  bool vectors;  // whether accesses of four elements fit the copies
};

constexpr int kHeldSamples = 4;  // whose gradients a thread keeps

// One thread's elements of the tile: kLanes neighbouring columns of every so-many-th row.
template <class Shape>
class OwnElements {
 public:
  static constexpr int kLanes = 4, kVectorsPerRow = Shape::kColumns / kLanes;
  static constexpr int kRowsPerPass = Shape::kThreads / kVectorsPerRow;
  static constexpr int kVectors = Shape::kRows / kRowsPerPass;

  static __device__ __forceinline__ int row(int v) {
    return static_cast<int>(threadIdx.x) / kVectorsPerRow + v * kRowsPerPass;
  }
  static __device__ __forceinline__ int column() {
    return static_cast<int>(threadIdx.x) % kVectorsPerRow * kLanes;
  }

  __device__ __forceinline__ OwnElements(const PerSampleGradientParameters& parameters, int first_row,
                                         int first_column)
      : parameters_(parameters),
        row_offset_((first_row + row(0)) * parameters.out_stride),
        column_(first_column + column()) {
    const PositionProducts& products = parameters.products;
    const int64_t rows_left = products.out_channels - first_row - row(0);
    vectors_inside_ =
        rows_left <= 0 ? 0 : min(kVectors, static_cast<int>((rows_left - 1) / kRowsPerPass) + 1);
    if (column_ >= products.places.reduction) vectors_inside_ = 0;
    column_offset_ = offset_of(column_);
  }

  // sums of a copy += code * gradients, dots += copy * gradients
  __device__ __forceinline__ void contract(int64_t copy_offset, const float (&code)[kHeldSamples], bool adds,
                                           const float (&gradients)[kHeldSamples][kVectors][kLanes],
                                           float (&dots)[kHeldSamples]) const {
    const auto* copy = static_cast<const typename Shape::T*>(parameters_.copies) + copy_offset + row_offset_;
    float* sums = parameters_.grad_weight + copy_offset + row_offset_;
    const int64_t step = kRowsPerPass * parameters_.out_stride;
    if (parameters_.vectors) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (v >= vectors_inside_) continue;
        float weight[kLanes], sum[kLanes] = {};
        load_vector<typename Shape::T, kLanes>(weight, copy + v * step + column_offset_);
        if (adds) load_vector<float, kLanes>(sum, sums + v * step + column_offset_);
#pragma unroll
        for (int i = 0; i < kLanes; ++i) add(code, weight[i], gradients, v, i, sum[i], dots);
        // As an explicit instruction: from a plain one the compiler may make four.
        __stcg(reinterpret_cast<float4*>(sums + v * step + column_offset_),
               make_float4(sum[0], sum[1], sum[2], sum[3]));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        if (column_ + i >= parameters_.products.places.reduction) continue;
        const int64_t column_offset = offset_of(column_ + i);
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          if (v >= vectors_inside_) continue;
          float* to = sums + v * step + column_offset;
          float sum = adds ? *to : 0.0f;
          add(code, to_sum(copy[v * step + column_offset]), gradients, v, i, sum, dots);
          *to = sum;
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ void add(const float (&code)[kHeldSamples], float weight,
                                             const float (&gradients)[kHeldSamples][kVectors][kLanes], int v,
                                             int i, float& sum, float (&dots)[kHeldSamples]) {
    // Samples are added in their order: the first of them lies in the last slot.
#pragma unroll
    for (int s = kHeldSamples - 1; s >= 0; --s) {
      sum = fmaf(code[s], gradients[s][v][i], sum);
      dots[s] = fmaf(weight, gradients[s][v][i], dots[s]);
    }
  }

  // Of a column in a row of a copy.
  __device__ __forceinline__ int64_t offset_of(int32_t column) const {
    const DenseTap tap = tap_of(parameters_.products.places, column);
    const int64_t kernel_tap = tap.kernel_y * parameters_.products.kernel_width + tap.kernel_x;
    return kernel_tap * parameters_.tap_stride + tap.channel;
  }

  const PerSampleGradientParameters& parameters_;
  int64_t row_offset_, column_offset_;
  int32_t column_, vectors_inside_;
};

template <class Tile>
struct PerSampleGradientMemory {
  static constexpr int kWarps = Tile::Shape::kThreads / kWarpSize;
  static constexpr int kCodes = PositionMemory<Tile>::kBytes;

  // Codes of kHeldSamples samples, and a dot product per warp for each of them.
  static int bytes(int shots) {
    return kCodes + (1 + kWarps) * kHeldSamples * shots * static_cast<int>(sizeof(float));
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::Shape::kThreads, 2)
    dense_per_sample_gradient_kernel(const PerSampleGradientParameters parameters) {
  using Shape = typename Tile::Shape;
  using Own = OwnElements<Shape>;
  using Memory = PerSampleGradientMemory<Tile>;
  KSHOT_DYNAMIC_SHARED(unsigned char, memory);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  const int32_t shots = parameters.shots, entries = kHeldSamples * shots;
  float* codes = reinterpret_cast<float*>(memory + Memory::kCodes);  // [kHeldSamples, shots], slot by slot
  float* warp_dots = codes + entries;                                // [warps, kHeldSamples, shots]
  const int32_t tile = static_cast<int32_t>(blockIdx.x);
  const int first_row = tile / parameters.column_tiles * Shape::kRows,
            first_column = tile % parameters.column_tiles * Shape::kColumns;

  // One round at least: without samples the gradient of the weight is zero. Slot 0 has the sample last
  // summed, slot 1 the one before, ...
  float gradients[kHeldSamples][Own::kVectors][Own::kLanes] = {};
#pragma unroll 1
  for (int32_t first = 0; first == 0 || first < parameters.samples; first += kHeldSamples) {
    for (int e = thread; e < entries; e += Shape::kThreads) {
      const int32_t sample = first + kHeldSamples - 1 - e / shots;
      codes[e] =
          sample < parameters.samples ? parameters.code[sample * parameters.code_stride + e % shots] : 0.0f;
    }
#pragma unroll 1
    for (int s = 0; s < kHeldSamples; ++s) {
      const int32_t sample = first + s;
      const bool used = sample < parameters.samples;
      const PositionRange range{sample, 0, used ? parameters.products.places.count : 0};
      const float* staging = sum_positions<Tile>(parameters.products, range, first_row, first_column, memory);
#pragma unroll
      for (int v = 0; v < Own::kVectors; ++v) {
#pragma unroll
        for (int slot = kHeldSamples - 1; slot > 0; --slot) {
#pragma unroll
          for (int i = 0; i < Own::kLanes; ++i) gradients[slot][v][i] = gradients[slot - 1][v][i];
        }
        load_vector<float, Own::kLanes>(gradients[0][v],
                                        staging + Own::row(v) * kStagingStride<Shape> + Own::column());
        const int row = first_row + Own::row(v);
        const float gate = parameters.gate != nullptr && used && row < parameters.products.out_channels
                               ? parameters.gate[sample * parameters.gate_stride + row]
                               : 1.0f;
#pragma unroll
        for (int i = 0; i < Own::kLanes; ++i) gradients[0][v][i] *= gate;
      }
      __syncthreads();
    }
    const Own own(parameters, first_row, first_column);
#pragma unroll 1
    for (int32_t k = 0; k < shots; ++k) {
      float code[kHeldSamples], dots[kHeldSamples] = {};
#pragma unroll
      for (int s = 0; s < kHeldSamples; ++s) code[s] = codes[s * shots + k];
      own.contract(k * parameters.shot_stride, code, first > 0, gradients, dots);
#pragma unroll
      for (int s = 0; s < kHeldSamples; ++s) {
        dots[s] = warp_sum(dots[s]);
        if (lane == 0) warp_dots[(warp * kHeldSamples + s) * shots + k] = dots[s];
      }
    }
    __syncthreads();
    for (int e = thread; e < entries; e += Shape::kThreads) {
      const int32_t sample = first + kHeldSamples - 1 - e / shots;
      if (sample >= parameters.samples) continue;
      float sum = 0.0f;
      for (int w = 0; w < Memory::kWarps; ++w) sum += warp_dots[w * entries + e];
      parameters.dots[(static_cast<int64_t>(tile) * parameters.samples + sample) * shots + e % shots] = sum;
    }
  }
}

}  // namespace
}  // namespace kshot::cuda
