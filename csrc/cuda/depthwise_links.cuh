// What a gather of depthwise convolution does beside convolving, as a link of a chain (chain_values.cuh):
//
//     PlainLink      nothing
//     ForwardLink    maps the raw input to z in its tile; makes the moments of the targets while they are
//     stored BackwardLink   makes G of the tiles of g and y; of the targets dL/dz stores dL/dx and makes the
//     sums of h
//                    and of h * (x - mean) * inverse_deviation; makes the gradient of the weight, G x z
//
// A tile is mapped where it lies, by the threads that copied it there: pieces outside of the image stay zero.
// Moments: a thread adds its groups of targets about the mean of those before (the group's own for the
// first),
//
//     mean <- q + s / (n + m)        squares <- squares + S - s^2 / (n + m)
//
// with n targets before, m in the group, s = sum (y - q), S = sum (y - q)^2; threads and blocks join theirs
// as moments.cuh says, always in the same order.
#pragma once

#include "cuda/chain_values.cuh"
#include "cuda/depthwise_chain.h"
#include "cuda/depthwise_group.cuh"
#include "cuda/depthwise_join.cuh"
#include "cuda/moments.cuh"

namespace kshot::cuda {
namespace {

// Of the targets that a thread has stored.
template <int lanes>
struct RunningMoments {
  Moments<float> own[lanes] = {};
  float count = 0;

  template <int rows, int columns>
  __device__ __forceinline__ void add(const float (&values)[rows][columns][lanes],
                                      const GroupBounds<rows, columns>& bounds) {
    const float group = static_cast<float>(bounds.count());
    if (group == 0) return;
    const float share = 1.0f / (count + group);
#pragma unroll
    for (int v = 0; v < lanes; ++v) {
      float pivot = own[v].mean;
      if (count == 0) {
        pivot = 0;
        for_each<rows, columns>(bounds, [&](int i, int j) { pivot += values[i][j][v]; });
        pivot *= share;
      }
      float sum = 0, squares = 0;
      for_each<rows, columns>(bounds, [&](int i, int j) {
        const float deviation = values[i][j][v] - pivot;
        sum += deviation;
        squares = fmaf(deviation, deviation, squares);
      });
      own[v].mean = pivot + sum * share;
      own[v].squares += squares - sum * sum * share;
    }
    count += group;
  }

 private:
  template <int rows, int columns, class Body>
  static __device__ __forceinline__ void for_each(const GroupBounds<rows, columns>& bounds,
                                                  const Body& body) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        if (bounds.has_row(i) && bounds.has_column(j)) body(i, j);
      }
    }
  }
};

// Joins the moments of the threads of each channel, in pairs, in those of position 0. `scratch`: a float for
// each thread's channels twice, and one for each position.
template <int lanes>
__device__ __forceinline__ void join_threads(RunningMoments<lanes>& moments, float* scratch,
                                             const BlockShape& block, const Lane& lane) {
  const int positions = 1 << block.position_lanes_log2, size = positions * block.channels;
  float *means = scratch, *squares = scratch + size, *counts = squares + size;
#pragma unroll 1
  for (int half = positions / 2; half > 0; half /= 2) {
    const int slot = (lane.position % half) * block.channels + lane.channel;
    if (lane.position >= half && lane.position < 2 * half) {
#pragma unroll
      for (int v = 0; v < lanes; ++v) {  // lanes apart, so that neighbouring threads use neighbouring banks
        means[slot + (v << block.channel_lanes_log2)] = moments.own[v].mean;
        squares[slot + (v << block.channel_lanes_log2)] = moments.own[v].squares;
      }
      if (lane.channel == 0) counts[lane.position - half] = moments.count;
    }
    __syncthreads();
    if (lane.position < half) {
      const float count = counts[lane.position];
      if (count > 0) {
#pragma unroll
        for (int v = 0; v < lanes; ++v) {
          const int at = slot + (v << block.channel_lanes_log2);
          join(moments.own[v], Moments<float>{means[at], squares[at]}, moments.count, count);
        }
        moments.count += count;
      }
    }
    __syncthreads();
  }
}

struct PlainLink {
  using Arguments = TiledGather;
  static constexpr bool kBackward = false, kTapsInRegisters = true;
  static constexpr int kTiles = 1, kValues = 0;

  __device__ __forceinline__ PlainLink(const Arguments&, unsigned char*, float*, int) {}
  template <class T>
  __device__ __forceinline__ void fill(T*, int64_t, const TilePlace&) const {}
  __device__ __forceinline__ void prepare(int64_t, bool) const {}
  template <class T>
  __device__ __forceinline__ void map(T*, const TilePlace&) const {}
  template <int rows, int columns, int lanes>
  __device__ __forceinline__ void add(const float (&)[rows][columns][lanes],
                                      const GroupBounds<rows, columns>&) const {}
  __device__ __forceinline__ void finish(const Lane&, int, int64_t) const {}
};

// One piece of a tile, in place: values[i] becomes body's. Calls body(values, lanes as a constant).
template <class T, class Body>
__device__ __forceinline__ void map_piece(T* piece, int bytes, const Body& body) {
  StoreWidths::with<T>(bytes, [&](auto width) {
    constexpr int kCount = decltype(width)::value / static_cast<int>(sizeof(T));
    float values[kCount];
    load_lanes<T, kCount>(values, piece);
    body(values);
    store_vector<T, kCount>(piece, values);
  });
}

template <int lanes, bool taps_in_registers>
class ForwardLink {
 public:
  using Arguments = ChainedGather;
  static constexpr bool kBackward = false, kTapsInRegisters = taps_in_registers;
  static constexpr int kTiles = 1, kValues = kForwardValues;  // scale and shift

  __device__ __forceinline__ ForwardLink(const Arguments& args, unsigned char* memory, float* values,
                                         int first_channel)
      : args_(args),
        scratch_(reinterpret_cast<float*>(memory)),
        scales_(values),
        shifts_(values + args.tiles.block.channels),
        first_channel_(first_channel) {}

  template <class T>
  __device__ __forceinline__ void fill(T*, int64_t, const TilePlace&) const {}

  __device__ __forceinline__ void prepare(int64_t sample, bool first) const {
    if (first || varies_by_sample(args_.norm)) {
      const int count = min(args_.tiles.block.channels, args_.tiles.channels - first_channel_);
      for (int c = static_cast<int>(threadIdx.x); c < count; c += static_cast<int>(blockDim.x)) {
        const NormValues values(args_.norm, sample, first_channel_ + c);
        scales_[c] = values.scale;
        shifts_[c] = values.shift;
      }
    }
    __syncthreads();
  }

  template <class T>
  __device__ __forceinline__ void map(T* tile, const TilePlace& place) const {
    const TilePlan& plan = args_.tiles;
    for_each_piece<T, true>(plan.source, plan.block, place, [&](int to, int64_t, int channel, bool inside) {
      if (!inside) return;
      map_piece(tile + to, plan.block.piece_bytes, [&](auto& values) {
        constexpr int kCount = sizeof(values) / sizeof(float);
        float scale[kCount], shift[kCount];
        load_lanes<float, kCount>(scale, scales_ + channel);
        load_lanes<float, kCount>(shift, shifts_ + channel);
#pragma unroll
        for (int i = 0; i < kCount; ++i) values[i] = fmaf(values[i], scale[i], shift[i]);
        activate(args_.norm.activation, values);
      });
    });
  }

  template <int rows, int columns>
  __device__ __forceinline__ void add(const float (&values)[rows][columns][lanes],
                                      const GroupBounds<rows, columns>& bounds) {
    if (args_.moments != nullptr) moments_.add(values, bounds);
  }

  // Leaves the block's moments as those of `piece`.
  __device__ __forceinline__ void finish(const Lane& lane, int channel, int64_t piece) {
    if (args_.moments == nullptr) return;
    join_threads(moments_, scratch_, args_.tiles.block, lane);
    if (lane.position != 0) return;
    const int channels = args_.tiles.channels;
    float* to = args_.moments + piece * 2 * channels;
#pragma unroll
    for (int v = 0; v < lanes; ++v) {
      if (channel + v >= channels) continue;
      to[channel + v] = moments_.own[v].mean;
      to[channels + channel + v] = moments_.own[v].squares;
    }
    if (channel == 0) args_.counts[piece] = moments_.count;
  }

 private:
  const Arguments& args_;
  float *scratch_, *scales_, *shifts_;
  int first_channel_;
  RunningMoments<lanes> moments_;
};

template <int taps>
class BackwardLink {
 public:
  using Arguments = ChainedGatherBackward;
  static constexpr bool kBackward = true, kTapsInRegisters = false;
  static constexpr int kTiles = 2, kValues = kBackwardValues;
  static constexpr int kSums = taps + 2;  // of a channel: the gradient of the weight, and the norm's

  __device__ __forceinline__ BackwardLink(const Arguments& args, unsigned char* memory, float* values,
                                          int first_channel)
      : args_(args),
        memory_(memory),
        values_(values),
        first_channel_(first_channel),
        channels_(args.tiles.block.channels) {}

  // The tile of y follows that of g.
  template <class T>
  __device__ __forceinline__ void fill(T* tile, int64_t offset, const TilePlace& place) const {
    if (args_.gradient.output == nullptr) return;
    const TilePlan& plan = args_.tiles;
    fill_tile<T, true>(tile + plan.source.elements, plan.source, plan.block,
                       static_cast<const T*>(args_.gradient.output) + offset, place);
  }

  __device__ __forceinline__ void prepare(int64_t sample, bool first) const {
    if (first) {  // a block has one sample where values vary by sample
      const int count = min(channels_, args_.tiles.channels - first_channel_);
      for (int c = static_cast<int>(threadIdx.x); c < count; c += static_cast<int>(blockDim.x)) {
        const GradientValues gradient(args_.gradient, first_channel_ + c);
        values_[c] = gradient.mean;
        values_[channels_ + c] = gradient.slope;
        values_[2 * channels_ + c] = gradient.constant;
        const NormValues norm(args_.norm, sample, first_channel_ + c);
        values_[3 * channels_ + c] = norm.scale;
        values_[4 * channels_ + c] = norm.shift;
        values_[5 * channels_ + c] = norm.mean;
      }
    }
    __syncthreads();
  }

  template <class T>
  __device__ __forceinline__ void map(T* tile, const TilePlace& place) const {
    if (args_.gradient.output == nullptr) return;
    const TilePlan& plan = args_.tiles;
    for_each_piece<T, true>(plan.source, plan.block, place, [&](int to, int64_t, int channel, bool inside) {
      if (!inside) return;
      map_piece(tile + to, plan.block.piece_bytes, [&](auto& values) {
        constexpr int kCount = sizeof(values) / sizeof(float);
        float y[kCount], mean[kCount], slope[kCount], constant[kCount];
        load_lanes<T, kCount>(y, tile + plan.source.elements + to);
        load_lanes<float, kCount>(mean, values_ + channel);
        load_lanes<float, kCount>(slope, values_ + channels_ + channel);
        load_lanes<float, kCount>(constant, values_ + 2 * channels_ + channel);
#pragma unroll
        for (int i = 0; i < kCount; ++i) values[i] += fmaf(y[i] - mean[i], slope[i], constant[i]);
      });
    });
  }

  // One group of a thread's channel, the block's `own`-th; `sample`: where that begins in the image.
  template <class T, class Rows, class Columns>
  __device__ __forceinline__ void group(const float* own_taps, const T* from, int row_step, int column_step,
                                        const GroupBounds<Rows::size, Columns::size>& bounds, int64_t sample,
                                        const ImageStrides<true>& strides, int own) {
    const int64_t row_stride = strides.row * bounds.row_step,
                  column_stride = strides.column * bounds.column_step,
                  at = sample + bounds.y * strides.row + bounds.x * strides.column;
    constexpr int rows = Rows::size, columns = Columns::size;
    const float scale = values_[3 * channels_ + own], shift = values_[4 * channels_ + own];
    const T* input = static_cast<const T*>(args_.input) + at;
    float x[rows][columns], z[rows][columns], h[rows][columns][1];
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        const bool exists = bounds.has_row(i) && bounds.has_column(j);
        x[i][j] = exists ? to_sum(input[i * row_stride + j * column_stride]) : 0;
        z[i][j] = fmaf(x[i][j], scale, shift);
        h[i][j][0] = 0;
      }
      activate(args_.norm.activation, z[i]);
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        if (!(bounds.has_row(i) && bounds.has_column(j))) z[i][j] = 0;
      }
    }
    const ThreadTaps<taps, 1, false> thread_taps(own_taps);
    gather_group<Rows, Columns, 1>(h, thread_taps, from, row_step, column_step,
                                   [&](int i, int j, int tap, int, float source) {
                                     sums_[tap][0] = fmaf(z[i][j], source, sums_[tap][0]);
                                   });
    store<T>(h, x, bounds, at, row_stride, column_stride, own);
  }

  // Leaves the block's sums as those of `piece`.
  __device__ __forceinline__ void finish(const Lane& lane, int channel, int64_t piece) {
    const int left = min(channels_, args_.tiles.channels - first_channel_);
    if (channel < args_.tiles.channels) {
      sums_[taps + 1][0] *= NormValues(args_.norm, 0, channel).inverse_deviation;
    }
    float* joined = reinterpret_cast<float*>(memory_);
    join_sums<true>(joined, sums_, args_.tiles.block, lane);
    float* to = args_.partial + (piece * args_.tiles.channels + first_channel_) * kSums;
    for (int i = static_cast<int>(threadIdx.x); i < left * kSums; i += static_cast<int>(blockDim.x)) {
      const int c = i / kSums, t = i - c * kSums;
      to[i] = joined[c * tap_pitch(kSums) + (args_.turned && t < taps ? taps - 1 - t : t)];
    }
  }

 private:
  template <class T, int rows, int columns>
  __device__ __forceinline__ void store(float (&h)[rows][columns][1], const float (&x)[rows][columns],
                                        const GroupBounds<rows, columns>& bounds, int64_t at,
                                        int64_t row_stride, int64_t column_stride, int own) {
    const float scale = values_[3 * channels_ + own], shift = values_[4 * channels_ + own],
                mean = values_[5 * channels_ + own];
    T* target = static_cast<T*>(args_.target);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      float of_row[columns], argument[columns];
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        of_row[j] = h[i][j][0];
        argument[j] = fmaf(x[i][j], scale, shift);
      }
      times_slope(args_.norm.activation, of_row, argument);
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        if (!(bounds.has_row(i) && bounds.has_column(j))) continue;
        sums_[taps][0] += of_row[j];
        sums_[taps + 1][0] = fmaf(of_row[j], x[i][j] - mean, sums_[taps + 1][0]);
        if (target != nullptr) {
          target[at + i * row_stride + j * column_stride] = from_sum<T>(of_row[j] * scale);
        }
      }
    }
  }

  const Arguments& args_;
  unsigned char* memory_;
  float* values_;
  int first_channel_, channels_;
  float sums_[kSums][1] = {};
};

}  // namespace
}  // namespace kshot::cuda
