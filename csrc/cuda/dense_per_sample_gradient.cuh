// Gradients of a weight dictionary and of its codes, where every sample has a code of its own:
//
//     G[n, o, t, i]           = gate[n, o] * sum_p grad[n, p, o] * input[n, p at t, i]
//     grad_weight[k, o, t, i] = sum_n code[n, k] * G[n, o, t, i]
//     grad_code[n, k]         = sum_{o, t, i} G[n, o, t, i] * weight[k, o, t, i]
//
// A block owns kRows output channels by kColumns pairs (t, i) of all copies and walks the samples, or where
// a weight has few tiles one of several parts of them, whose sums a second kernel adds in order. G of this
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
  int64_t shot_stride, out_stride;
  int32_t tap_stride, sums_tap_stride;
  float* sums;  // gradients of the copies: of the whole batch, or [parts, shots, out_channels, reduction]
  int64_t sums_part_stride, sums_shot_stride, sums_out_stride;
  const float *code, *gate;
  int64_t code_stride, gate_stride;
  float* dots;  // [tiles, samples, shots]
  int32_t samples, shots, column_tiles;
  int32_t part_rounds;  // rounds of kHeldSamples samples that make a part
  bool vectors;         // whether accesses of four elements fit the copies and the sums
};

constexpr int kHeldSamples = 4;  // whose gradients a thread keeps

// One thread's elements of the tile: kLanes columns of every so-many-th row. They are neighbours where one
// access takes them all; otherwise neighbouring threads own neighbouring columns, so that single elements
// fill sectors.
template <class Shape>
class OwnElements {
 public:
  using T = typename Shape::T;
  static constexpr int kLanes = 4, kVectorsPerRow = Shape::kColumns / kLanes;
  static constexpr int kRowsPerPass = Shape::kThreads / kVectorsPerRow;
  static constexpr int kVectors = Shape::kRows / kRowsPerPass;

  static __device__ __forceinline__ int row(int v) {
    return static_cast<int>(threadIdx.x) / kVectorsPerRow + v * kRowsPerPass;
  }
  static __device__ __forceinline__ int column(bool vectors) {
    return static_cast<int>(threadIdx.x) % kVectorsPerRow * (vectors ? kLanes : 1);
  }
  // From the sums of a row of the tile.
  static __device__ __forceinline__ void load(float (&to)[kLanes], const float* sums, bool vectors) {
    sums += column(vectors);
    if (vectors) {
      load_vector<float, kLanes>(to, sums);
    } else {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) to[i] = sums[i * kVectorsPerRow];
    }
  }

  __device__ __forceinline__ OwnElements(const PerSampleGradientParameters& parameters, int first_row,
                                         int first_column)
      : parameters_(parameters),
        row_(first_row + row(0)),
        column_(first_column + column(parameters.vectors)) {
    const PositionProducts& products = parameters.products;
    const int32_t rows_left = products.out_channels - row_;
    vectors_inside_ = rows_left <= 0 ? 0 : min(kVectors, (rows_left - 1) / kRowsPerPass + 1);
    if (column_ >= products.places.reduction) vectors_inside_ = 0;
    place_ = place_of_column(column_);
  }

  // sums of copy k += code * gradients, dots += copy k * gradients; `sums` are those of the block's part.
  __device__ __forceinline__ void contract(int32_t k, float* sums, const float (&code)[kHeldSamples],
                                           bool adds,
                                           const float (&gradients)[kHeldSamples][kVectors][kLanes],
                                           float (&dots)[kHeldSamples]) const {
    const T* copy = static_cast<const T*>(parameters_.copies) + k * parameters_.shot_stride +
                    row_ * parameters_.out_stride;
    sums += k * parameters_.sums_shot_stride + row_ * parameters_.sums_out_stride;
    const int64_t copy_step = kRowsPerPass * parameters_.out_stride,
                  sums_step = kRowsPerPass * parameters_.sums_out_stride;
    if (parameters_.vectors) {
      copy += place_.in_copy;
      sums += place_.in_sums;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (v >= vectors_inside_) continue;
        float weight[kLanes], sum[kLanes] = {};
        load_vector<T, kLanes>(weight, copy + v * copy_step);
        if (adds) load_vector<float, kLanes>(sum, sums + v * sums_step);
#pragma unroll
        for (int i = 0; i < kLanes; ++i) add(code, weight[i], gradients, v, i, sum[i], dots);
        // As an explicit instruction: from a plain one the compiler may make four.
        __stcg(reinterpret_cast<float4*>(sums + v * sums_step), make_float4(sum[0], sum[1], sum[2], sum[3]));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const int32_t column = column_ + i * kVectorsPerRow;
        if (column >= parameters_.products.places.reduction) continue;
        const Place place = place_of_column(column);
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          if (v >= vectors_inside_) continue;
          float* to = sums + v * sums_step + place.in_sums;
          float sum = adds ? *to : 0.0f;
          add(code, to_sum(copy[v * copy_step + place.in_copy]), gradients, v, i, sum, dots);
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

  // Where a column lies in a row. Short, for registers are scarce here.
  struct Place {
    int32_t in_copy, in_sums;
  };
  __device__ __forceinline__ Place place_of_column(int32_t column) const {
    const DenseTap tap = tap_of(parameters_.products.places, column);
    const int32_t kernel_tap = tap.kernel_y * parameters_.products.kernel_width + tap.kernel_x;
    return {kernel_tap * parameters_.tap_stride + tap.channel,
            kernel_tap * parameters_.sums_tap_stride + tap.channel};
  }

  const PerSampleGradientParameters& parameters_;
  int32_t row_, column_, vectors_inside_;
  Place place_;
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

  // Slot 0 has the sample last summed, slot 1 the one before, ... A part has a round at least: without
  // samples the gradient of the weight is zero.
  float gradients[kHeldSamples][Own::kVectors][Own::kLanes] = {};
#pragma unroll 1
  for (int32_t round = 0; round < parameters.part_rounds; ++round) {
    const int32_t first = (static_cast<int32_t>(blockIdx.y) * parameters.part_rounds + round) * kHeldSamples;
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
        Own::load(gradients[0][v], staging + Own::row(v) * kStagingStride<Shape>, parameters.vectors);
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
    float* sums = parameters.sums + blockIdx.y * parameters.sums_part_stride;
#pragma unroll 1
    for (int32_t k = 0; k < shots; ++k) {
      float code[kHeldSamples], dots[kHeldSamples] = {};
#pragma unroll
      for (int s = 0; s < kHeldSamples; ++s) code[s] = codes[s * shots + k];
      own.contract(k, sums, code, round > 0, gradients, dots);
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

// to[k, o, t, i] = sum_p from[p, k, o, t, i], one thread an element.
struct PartSums {
  const float* from;  // [parts, shots, out_channels, reduction]
  float* to;
  int64_t shot_stride, out_stride, tap_stride;  // of `to`
  int32_t parts, size;                          // size: elements of a part
  FastDivisor reduction, out_channels, in_channels;
};

constexpr int kPartThreads = 256;
__global__ void __launch_bounds__(kPartThreads) add_parts_kernel(const PartSums args) {
  const int32_t e = static_cast<int32_t>(blockIdx.x) * kPartThreads + static_cast<int32_t>(threadIdx.x);
  if (e >= args.size) return;
  const int32_t row = args.reduction.quotient(e), column = args.reduction.remainder(e, row);
  const int32_t k = args.out_channels.quotient(row), out = args.out_channels.remainder(row, k);
  const int32_t tap = args.in_channels.quotient(column), in = args.in_channels.remainder(column, tap);
  float sum = 0.0f;
#pragma unroll 4
  for (int p = 0; p < args.parts; ++p) sum += args.from[static_cast<int64_t>(p) * args.size + e];
  args.to[k * args.shot_stride + out * args.out_stride + tap * args.tap_stride + in] = sum;
}

}  // namespace
}  // namespace kshot::cuda
