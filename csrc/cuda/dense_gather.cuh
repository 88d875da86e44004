// Convolution as an implicit matrix product, forward and, with transposed taps, for the gradient of the
// input:
//
//     target[g, c] = bias[n, c] + gate[n, c] * sum_t sum_s source[g at t, s] * mixed[n, (t, s), c]
//
// A block owns kRows places (targets that use the same taps, of one sample where code, gate or bias depend on
// it) by kColumns channels, and walks the reduction (t, s) in chunks of 64 bytes: rows of the source come
// to shared memory by asynchronous copies, zeros in the padding; the weight is mixed on its way there
// (dense_mixed_weight.cuh). With a stride, the targets of a gradient fall in classes of equal taps, up to
// kMostClasses of them a launch. Blocks that share places, or channels where the copies are larger than the
// source, are neighbours in launch order and read them from the L2 cache. Bound by the products with many
// channels on both sides, otherwise by the bytes of source and target; mixing adds shots / kRows of the
// products' multiply-adds.
#pragma once

#include "common/pixels.h"
#include "cuda/dense_mixed_weight.cuh"
#include "cuda/dense_pipeline.cuh"

namespace kshot::cuda {
namespace {

constexpr int kMostClasses = 4;

struct GatherParameters {
  Pixels<void> source;
  void* target;
  int64_t samples;
  int32_t source_height, source_width, source_channels;
  int32_t target_height, target_width, target_channels;
  MixedWeight weight;
  const float *code, *gate, *bias;
  int64_t code_stride, gate_stride, bias_stride;
  int32_t column_tiles, row_blocks;  // of the grid; classes with fewer places leave blocks out
  bool rows_outside;                 // whether blocks of the same places are neighbours
  bool per_sample;                   // whether code, gate or bias depend on the sample
  int source_bytes, target_bytes;    // width of one copy of the source, of one store
  DensePlaces classes[kMostClasses];
};

// Where the first tap of a row of the tile reads.
struct alignas(16) SourceRow {
  int64_t offset;  // of the first tap's source, which may lie outside the image; then only y and x count
  int32_t y, x;
};
// Where its sums go; -1 beyond the last place.
using TargetOffset = int64_t;

// Rows are moved as a whole: in pieces they would meet banks of shared memory four times.
__device__ __forceinline__ SourceRow load_row(const SourceRow* from) {
  const Words<sizeof(SourceRow)> words = load_words<sizeof(SourceRow)>(from);
  SourceRow row;
  std::memcpy(&row, &words, sizeof(row));
  return row;
}
__device__ __forceinline__ void store_row(SourceRow* to, const SourceRow& row) {
  Words<sizeof(SourceRow)> words;
  std::memcpy(&words, &row, sizeof(row));
  store_words(to, words);
}

template <class Tile>
class SourceLoader {
 public:
  using T = typename Tile::T;
  static constexpr int kLead = kCopyLead, kBuffers = kCopyBuffers;
  static constexpr bool kMaps = false;

  __device__ __forceinline__ SourceLoader(const GatherParameters& parameters, const DensePlaces& places,
                                          const SourceRow* rows)
      : parameters_(parameters), places_(places), rows_(rows) {}

  __device__ __forceinline__ void begin(int chunk, T* to) const {
    const T* source = static_cast<const T*>(parameters_.source.data);
    for_each_copy(chunk, [&](auto bytes, int at, int64_t from, int, bool inside) {
      copy_or_clear<decltype(bytes)::value>(to + at, source + from, inside);
    });
  }
  __device__ __forceinline__ void finish(T*) const {}

 protected:
  using Shape = typename Tile::Shape;

  // Calls body(bytes of a copy as a constant, element of the chunk's layout, element of the source or 0, the
  // first source channel, whether it is inside) for the copies of a thread, which share their channels.
  template <class Body>
  __device__ __forceinline__ void for_each_copy(int chunk, const Body& body) const {
    CopyWidths::with<T>(parameters_.source_bytes, [&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value, kLanes = kBytes / static_cast<int>(sizeof(T));
      constexpr int kCopiesPerRow = Shape::kDepth / kLanes, kRowsPerPass = Shape::kThreads / kCopiesPerRow;
      const int thread = static_cast<int>(threadIdx.x), lane = thread % kCopiesPerRow * kLanes;
      const int32_t depth = chunk * Shape::kDepth + lane;
      const DenseTap tap = tap_of(places_, depth);
      const int64_t offset =
          (static_cast<int64_t>(tap.y) * parameters_.source_width + tap.x) * parameters_.source.stride +
          tap.channel;
#pragma unroll kCopiesInARow < kBytes>
      for (int r = thread / kCopiesPerRow; r < Shape::kRows; r += kRowsPerPass) {
        const SourceRow row = load_row(rows_ + r);
        const bool inside =
            depth < places_.reduction &&
            static_cast<uint32_t>(row.y + tap.y) < static_cast<uint32_t>(parameters_.source_height) &&
            static_cast<uint32_t>(row.x + tap.x) < static_cast<uint32_t>(parameters_.source_width);
        body(bytes, r * Tile::Left::kStride + lane, inside ? row.offset + offset : 0, tap.channel, inside);
      }
    });
  }

 private:
  const GatherParameters& parameters_;
  const DensePlaces& places_;
  const SourceRow* rows_;
};

// `sources`: images that come as the left operand.
template <class Tile, bool transposed, int sources>
struct GatherMemory {
  using Shape = typename Tile::Shape;
  static constexpr int kElement = static_cast<int>(sizeof(typename Tile::T));
  static constexpr int kLeft = kCopyBuffers * Tile::Left::kSize * kElement;
  static constexpr int kRight = MixedWeightLoader<Tile, transposed>::kBuffers * Tile::Right::kSize * kElement;
  // A second source follows both operands; finished sums take the place of all.
  static constexpr int kAll = sources * kLeft + kRight;
  static constexpr int kOperands = kAll > kStagingBytes<Shape> ? kAll : kStagingBytes<Shape>;
  static constexpr int kSecond = (kLeft + kRight) / kElement;  // elements from the left operand
  static constexpr int kSources = kOperands;
  static constexpr int kTargets = kSources + Shape::kRows * static_cast<int>(sizeof(SourceRow));
  static constexpr int kGate = kTargets + Shape::kRows * static_cast<int>(sizeof(TargetOffset));
  static constexpr int kBias = kGate + Shape::kColumns * static_cast<int>(sizeof(float));
  static constexpr int kCode = kBias + Shape::kColumns * static_cast<int>(sizeof(float));

  static int bytes(int shots) { return kCode + shots * static_cast<int>(sizeof(float)); }
};

// Sums to targets, through gate and bias of the tile's channels. A thread owns neighbouring channels of every
// so-many-th row: as many as one store takes, so that neighbouring threads fill sectors.
template <class Shape>
__device__ __forceinline__ void write_targets(const GatherParameters& parameters, const float* staging,
                                              const TargetOffset* targets, const float* gates,
                                              const float* biases, int first_column) {
  using T = typename Shape::T;
  StoreWidths::with<T>(parameters.target_bytes, [&](auto bytes) {
    constexpr int kLanes = decltype(bytes)::value / static_cast<int>(sizeof(T)),
                  kStoresPerRow = Shape::kColumns / kLanes, kRowsPerPass = Shape::kThreads / kStoresPerRow;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kStoresPerRow * kLanes;
    const int channel = first_column + lane;
    if (channel >= parameters.target_channels) return;
    float gate[kLanes], bias[kLanes];
    load_vector<float, kLanes>(gate, gates + lane);
    load_vector<float, kLanes>(bias, biases + lane);
#pragma unroll 2
    for (int r = thread / kStoresPerRow; r < Shape::kRows; r += kRowsPerPass) {
      const TargetOffset offset = targets[r];
      if (offset < 0) continue;
      float values[kLanes];
      load_vector<float, kLanes>(values, staging + r * kStagingStride<Shape> + lane);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) values[i] = fmaf(values[i], gate[i], bias[i]);
      store_vector<T, kLanes>(static_cast<T*>(parameters.target) + offset + channel, values);
    }
  });
}

// What a plain convolution does where a link of a chain (dense_links.cuh) does more.
struct PlainDenseLink {
  using Parameters = GatherParameters;
  static constexpr int kSources = 1;
  static constexpr bool kTallTiles = true;

  template <class Tile>
  static __device__ __forceinline__ auto loader(const Parameters& parameters, const DensePlaces& places,
                                                const SourceRow* rows, int64_t, int) {
    return SourceLoader<Tile>(parameters, places, rows);
  }
  static __device__ __forceinline__ void leave_out(const Parameters&, int, int, int) {}
  // On the host: the first row block of a launch among all; widths of accesses that other tensors allow.
  static void count_from(Parameters&, int64_t) {}
  template <class T>
  static void narrow_accesses(Parameters&) {}

  template <class Shape>
  static __device__ __forceinline__ void write(const Parameters& parameters, float* staging,
                                               const TargetOffset* targets, const float* gates,
                                               const float* biases, int first_column, int64_t, int) {
    write_targets<Shape>(parameters, staging, targets, gates, biases, first_column);
  }
};

template <class Tile, bool transposed, class Link>
__global__ void __launch_bounds__(Tile::Shape::kThreads, 2)
    dense_gather_kernel(const typename Link::Parameters parameters) {
  using T = typename Tile::T;
  using Shape = typename Tile::Shape;
  using Memory = GatherMemory<Tile, transposed, Link::kSources>;
  KSHOT_DYNAMIC_SHARED(unsigned char, memory);
  SourceRow* sources = reinterpret_cast<SourceRow*>(memory + Memory::kSources);
  TargetOffset* targets = reinterpret_cast<TargetOffset*>(memory + Memory::kTargets);
  float* gates = reinterpret_cast<float*>(memory + Memory::kGate);
  float* biases = reinterpret_cast<float*>(memory + Memory::kBias);
  float* code = reinterpret_cast<float*>(memory + Memory::kCode);
  const DensePlaces& places = parameters.classes[blockIdx.y];

  // A group is what shares code, gate and bias: a sample, or the batch.
  const int64_t group_places =
      parameters.per_sample ? places.count : places.count * static_cast<int64_t>(parameters.samples);
  const int32_t row_tiles = static_cast<int32_t>((group_places + Shape::kRows - 1) / Shape::kRows);
  // The larger operand decides which blocks are neighbours: those that share a tile of it.
  const int32_t inner_blocks = parameters.rows_outside ? parameters.column_tiles : parameters.row_blocks;
  const int32_t outer = static_cast<int32_t>(blockIdx.x) / inner_blocks,
                inner = static_cast<int32_t>(blockIdx.x) - outer * inner_blocks;
  const int32_t row_block = parameters.rows_outside ? outer : inner,
                first_column = (parameters.rows_outside ? inner : outer) * Shape::kColumns;
  const int64_t groups = parameters.per_sample ? parameters.samples : 1;
  if (row_block >= groups * row_tiles)
    return Link::leave_out(parameters, first_column, Shape::kColumns, row_block);
  const int64_t group = row_block / row_tiles;
  const int64_t first_row = (row_block - group * row_tiles) * Shape::kRows;
  const int64_t first_sample = group + first_row / places.count;
  const int32_t first_place = static_cast<int32_t>(first_row % places.count);

  for (int r = static_cast<int>(threadIdx.x); r < Shape::kRows; r += Shape::kThreads) {
    const bool used = first_row + r < group_places;
    const DensePlace place = place_of(places, first_place + r);
    const int64_t sample = first_sample + place.sample;
    const int32_t y = places.height.first_source + place.row * places.height.source_step,
                  x = places.width.first_source + place.column * places.width.source_step;
    const int64_t target_y = places.height.first + place.row * places.height.step,
                  target_x = places.width.first + place.column * places.width.step;
    // Beyond the last place no tap lies inside: rows so far away that no tap's distance leads back.
    store_row(sources + r, SourceRow{((sample * parameters.source_height + y) * parameters.source_width + x) *
                                         parameters.source.stride,
                                     used ? y : INT32_MIN / 2, x});
    const int64_t pixel = (sample * parameters.target_height + target_y) * parameters.target_width + target_x;
    targets[r] = used ? pixel * parameters.target_channels : -1;
  }
  for (int k = static_cast<int>(threadIdx.x); k < parameters.weight.shots; k += Shape::kThreads) {
    code[k] = parameters.code == nullptr ? 1.0f : parameters.code[group * parameters.code_stride + k];
  }
  const float *gate = parameters.gate + group * parameters.gate_stride,
              *bias = parameters.bias + group * parameters.bias_stride;  // null has the stride 0
  // Those of the targets' channels; transposed, the gate is of the source's channels and a part of the
  // weight.
  for (int c = static_cast<int>(threadIdx.x); c < Shape::kColumns; c += Shape::kThreads) {
    const int channel = first_column + c;
    const bool inside = channel < parameters.target_channels;
    gates[c] = !transposed && gate != nullptr && inside ? gate[channel] : 1.0f;
    biases[c] = bias != nullptr && inside ? bias[channel] : 0.0f;
  }
  __syncthreads();

  auto source_loader = Link::template loader<Tile>(parameters, places, sources, group, Memory::kSecond);
  MixedWeightLoader<Tile, transposed> weight_loader(parameters.weight, places, first_column, code,
                                                    transposed ? gate : nullptr);
  Tile tile;
  tile.clear();
  accumulate(tile, (places.reduction + Shape::kDepth - 1) / Shape::kDepth, source_loader, weight_loader,
             reinterpret_cast<T*>(memory), reinterpret_cast<T*>(memory + Memory::kLeft));
  __syncthreads();
  float* staging = reinterpret_cast<float*>(memory);
  tile.store(staging);
  __syncthreads();
  Link::template write<Shape>(parameters, staging, targets, gates, biases, first_column, group, row_block);
}

}  // namespace
}  // namespace kshot::cuda
