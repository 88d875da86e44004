// What the gather of a dense convolution does beside convolving, as a link of a chain (chain_values.cuh):
// maps the rows of the raw input to z where the asynchronous copies left them in shared memory, and makes the
// moments of the targets while it stores them.
//
// A thread sums up its rows of a channel about their mean; threads and blocks join theirs as moments.cuh
// says, always in the same order. Scales and shifts lie in global memory and come from the caches.
#pragma once

#include "cuda/chain_values.cuh"
#include "cuda/dense_gather.cuh"
#include "cuda/dense_positions.cuh"
#include "cuda/moments.cuh"

namespace kshot::cuda {
namespace {

struct ForwardLinkParameters : GatherParameters {
  Activation activation;
  const float *scales, *shifts;  // of the source's channels, [C] or [N, C]
  int64_t norm_stride;           // from sample to sample: 0 if shared
  float* moments;                // [row blocks, 2, target channels]; null: not asked for
  float* counts;                 // [row blocks]: targets of each
};

// values = activation(values * scale + shift), `count` neighbouring channels of shared memory, in place.
template <class T, int count>
__device__ __forceinline__ void apply_norm(T* at, const float* scales, const float* shifts,
                                           Activation activation) {
  float values[count], scale[count], shift[count];
  load_lanes<float, count>(scale, scales);
  load_lanes<float, count>(shift, shifts);
  load_lanes<T, count>(values, at);
#pragma unroll
  for (int i = 0; i < count; ++i) values[i] = fmaf(values[i], scale[i], shift[i]);
  activate(activation, values);
  store_vector<T, count>(at, values);
}

// How G follows from g and y. Without y (null) it is g.
struct DenseGradientMap {
  const void* output;                       // y
  const float *means, *slopes, *constants;  // [C]
};

// The same for g, with y that lies `second` elements further.
template <class T, int count>
__device__ __forceinline__ void apply_gradient(T* at, int second, const DenseGradientMap& map, int channel) {
  float values[count], y[count], mean[count], slope[count], constant[count];
  load_lanes<float, count>(mean, map.means + channel);
  load_lanes<float, count>(slope, map.slopes + channel);
  load_lanes<float, count>(constant, map.constants + channel);
  load_lanes<T, count>(values, at);
  load_lanes<T, count>(y, at + second);
#pragma unroll
  for (int i = 0; i < count; ++i) values[i] += fmaf(y[i] - mean[i], slope[i], constant[i]);
  store_vector<T, count>(at, values);
}

template <class Tile>
class MappedSourceLoader : public SourceLoader<Tile> {
 public:
  using T = typename Tile::T;
  static constexpr bool kMaps = true;

  __device__ __forceinline__ MappedSourceLoader(const ForwardLinkParameters& parameters,
                                                const DensePlaces& places, const SourceRow* rows,
                                                int64_t group)
      : SourceLoader<Tile>(parameters, places, rows),
        activation_(parameters.activation),
        scales_(parameters.scales + group * parameters.norm_stride),
        shifts_(parameters.shifts + group * parameters.norm_stride) {}

  __device__ __forceinline__ void map(int chunk, T* to) const {
    this->for_each_copy(chunk, [&](auto bytes, int at, int64_t, int channel, bool inside) {
      constexpr int kLanes = decltype(bytes)::value / static_cast<int>(sizeof(T));
      if (!inside) return;
      apply_norm<T, kLanes>(to + at, scales_ + channel, shifts_ + channel, activation_);
    });
  }

 private:
  Activation activation_;
  const float *scales_, *shifts_;
};

// Joins the moments of the threads of each column, in pairs, in those of slot 0. Columns of a thread lie
// apart in `scratch`, so that neighbouring threads use neighbouring banks.
template <int lanes, int slots, int stores>
__device__ __forceinline__ void join_rows(Moments<float> (&own)[lanes], float& count, float* scratch,
                                          int slot, int store) {
  constexpr int kSize = slots * stores * lanes;
  float *means = scratch, *squares = scratch + kSize, *counts = squares + kSize;
#pragma unroll 1
  for (int half = slots / 2; half > 0; half /= 2) {
    const int at = slot % half * stores + store;
    if (slot >= half && slot < 2 * half) {
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        means[at + i * slots * stores] = own[i].mean;
        squares[at + i * slots * stores] = own[i].squares;
      }
      if (store == 0) counts[slot - half] = count;
    }
    __syncthreads();
    if (slot < half && counts[slot] > 0) {
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        join(own[i], Moments<float>{means[at + i * slots * stores], squares[at + i * slots * stores]}, count,
             counts[slot]);
      }
      count += counts[slot];
    }
    __syncthreads();
  }
}

struct ForwardDenseLink {
  using Parameters = ForwardLinkParameters;
  static constexpr int kSources = 1;
  static constexpr bool kTallTiles = true;

  template <class Tile>
  static __device__ __forceinline__ auto loader(const Parameters& parameters, const DensePlaces& places,
                                                const SourceRow* rows, int64_t group, int) {
    return MappedSourceLoader<Tile>(parameters, places, rows, group);
  }
  // There is one class of places, which leaves no block out.
  static __device__ __forceinline__ void leave_out(const Parameters&, int, int, int) {}
  static void count_from(Parameters&, int64_t) {}
  template <class T>
  static void narrow_accesses(Parameters&) {}

  // The moments follow the stores: both read the finished sums.
  template <class Shape>
  static __device__ __forceinline__ void write(const Parameters& parameters, float* staging,
                                               const TargetOffset* targets, const float* gates,
                                               const float* biases, int first_column, int64_t,
                                               int row_block) {
    write_targets<Shape>(parameters, staging, targets, gates, biases, first_column);
    if (parameters.moments == nullptr) return;
    constexpr int kLanes = 4, kStores = Shape::kColumns / kLanes, kSlots = Shape::kThreads / kStores;
    const int thread = static_cast<int>(threadIdx.x), store = thread % kStores, slot = thread / kStores;
    Moments<float> own[kLanes] = {};
    float count = 0;
    const auto for_each_row = [&](const auto& body) {
#pragma unroll 4
      for (int r = slot; r < Shape::kRows; r += kSlots) {
        if (targets[r] < 0) continue;
        float values[kLanes];
        load_vector<float, kLanes>(values, staging + r * kStagingStride<Shape> + store * kLanes);
        body(values);
      }
    };
    for_each_row([&](const float (&values)[kLanes]) {
      count += 1;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) own[i].mean += values[i];
    });
#pragma unroll
    for (int i = 0; i < kLanes; ++i) own[i].mean = count > 0 ? own[i].mean / count : 0;
    for_each_row([&](const float (&values)[kLanes]) {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const float deviation = values[i] - own[i].mean;
        own[i].squares = fmaf(deviation, deviation, own[i].squares);
      }
    });
    __syncthreads();  // the sums make room
    join_rows<kLanes, kSlots, kStores>(own, count, staging, slot, store);
    if (slot != 0) return;
    const int channels = parameters.target_channels;
    float* to = parameters.moments + static_cast<int64_t>(row_block) * 2 * channels;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const int channel = first_column + store * kLanes + i;
      if (channel >= channels) continue;
      to[channel] = own[i].mean;
      to[channels + channel] = own[i].squares;
    }
    if (first_column == 0 && store == 0) parameters.counts[row_block] = count;
  }
};

// A loader of g, which brings y along and makes G of both.
template <class Tile, class Base>
class GradientLoader : public Base {
 public:
  using T = typename Tile::T;
  static constexpr bool kMaps = true;

  // `second`: where y lies, in elements from g.
  template <class... Arguments>
  __device__ __forceinline__ GradientLoader(const DenseGradientMap& map, int second,
                                            const Arguments&... arguments)
      : Base(arguments...), map_(map), second_(second) {}

  __device__ __forceinline__ void begin(int chunk, T* to) const {
    Base::begin(chunk, to);
    if (map_.output == nullptr) return;
    this->for_each_copy(chunk, [&](auto bytes, int at, int64_t from, int, bool inside) {
      copy_or_clear<decltype(bytes)::value>(to + second_ + at, static_cast<const T*>(map_.output) + from,
                                            inside);
    });
  }
  __device__ __forceinline__ void map(int chunk, T* to) const {
    if (map_.output == nullptr) return;
    this->for_each_copy(chunk, [&](auto bytes, int at, int64_t, int channel, bool inside) {
      constexpr int kLanes = decltype(bytes)::value / static_cast<int>(sizeof(T));
      if (inside) apply_gradient<T, kLanes>(to + at, second_, map_, channel);
    });
  }

 private:
  const DenseGradientMap& map_;
  int second_;
};

struct BackwardLinkParameters : GatherParameters {
  DenseGradientMap gradient;
  ChainNorm norm;
  const void* input;        // x
  float* sums;              // [row blocks of all classes, 2, target channels]
  int64_t first_row_block;  // of this launch
};

struct BackwardDenseLink {
  using Parameters = BackwardLinkParameters;
  static constexpr int kSources = 2;
  static constexpr bool kTallTiles = false;  // they would need more shared memory

  template <class Tile>
  static __device__ __forceinline__ auto loader(const Parameters& parameters, const DensePlaces& places,
                                                const SourceRow* rows, int64_t, int second) {
    return GradientLoader<Tile, SourceLoader<Tile>>(parameters.gradient, second, parameters, places, rows);
  }
  static void count_from(Parameters& parameters, int64_t row_blocks) {
    parameters.first_row_block = row_blocks;
  }
  template <class T>
  static void narrow_accesses(Parameters& parameters) {
    const int source = CopyWidths::widest(parameters.gradient.output, parameters.source_channels, sizeof(T)),
              target = StoreWidths::widest(parameters.input, parameters.target_channels, sizeof(T));
    parameters.source_bytes = std::min(parameters.source_bytes, source);
    parameters.target_bytes = std::min(parameters.target_bytes, target);
  }

  static __device__ __forceinline__ float* sums_of(const Parameters& parameters, int row_block) {
    const int64_t block =
        parameters.first_row_block + static_cast<int64_t>(blockIdx.y) * parameters.row_blocks + row_block;
    return parameters.sums + block * 2 * parameters.target_channels;
  }
  static __device__ __forceinline__ void leave_out(const Parameters& parameters, int first_column,
                                                   int columns, int row_block) {
    float* sums = sums_of(parameters, row_block);
    for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x)) {
      if (first_column + c >= parameters.target_channels) continue;
      sums[first_column + c] = 0;
      sums[parameters.target_channels + first_column + c] = 0;
    }
  }

  template <class Shape>
  static __device__ __forceinline__ void write(const Parameters& parameters, float* staging,
                                               const TargetOffset* targets, const float*, const float*,
                                               int first_column, int64_t group, int row_block) {
    using T = typename Shape::T;
    StoreWidths::with<T>(parameters.target_bytes, [&](auto bytes) {
      constexpr int kLanes = decltype(bytes)::value / static_cast<int>(sizeof(T)),
                    kStoresPerRow = Shape::kColumns / kLanes, kSlots = Shape::kThreads / kStoresPerRow;
      const int thread = static_cast<int>(threadIdx.x), store = thread % kStoresPerRow,
                slot = thread / kStoresPerRow, channel = first_column + store * kLanes;
      const bool active = channel < parameters.target_channels;
      float sums[2][kLanes] = {};
      if (active) {
        float scale[kLanes], shift[kLanes], mean[kLanes], deviation[kLanes];
#pragma unroll
        for (int i = 0; i < kLanes; ++i) {
          const NormValues values(parameters.norm, group, channel + i);
          scale[i] = values.scale;
          shift[i] = values.shift;
          mean[i] = values.mean;
          deviation[i] = values.inverse_deviation;
        }
        T* target = static_cast<T*>(parameters.target) + channel;
        const T* input = static_cast<const T*>(parameters.input) + channel;
#pragma unroll 1
        for (int r = slot; r < Shape::kRows; r += kSlots) {
          const TargetOffset offset = targets[r];
          if (offset < 0) continue;
          float h[kLanes], x[kLanes], argument[kLanes];
          load_lanes<T, kLanes>(x, input + offset);
          load_lanes<float, kLanes>(h, staging + r * kStagingStride<Shape> + store * kLanes);
#pragma unroll
          for (int i = 0; i < kLanes; ++i) argument[i] = fmaf(x[i], scale[i], shift[i]);
          times_slope(parameters.norm.activation, h, argument);
#pragma unroll
          for (int i = 0; i < kLanes; ++i) {
            sums[0][i] += h[i];
            sums[1][i] = fmaf(h[i], x[i] - mean[i], sums[1][i]);
            h[i] *= scale[i];
          }
          store_vector<T, kLanes>(target + offset, h);
        }
#pragma unroll
        for (int i = 0; i < kLanes; ++i) sums[1][i] *= deviation[i];
      }
      __syncthreads();  // the finished sums make room
      add_rows<kLanes, kSlots, kStoresPerRow>(sums, staging, slot, store);
      if (slot != 0 || !active) return;
      float* to = sums_of(parameters, row_block) + channel;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        to[i] = sums[0][i];
        to[parameters.target_channels + i] = sums[1][i];
      }
    });
  }

 private:
  // Adds the sums of the threads of each column up in those of slot 0, as join_rows does.
  template <int lanes, int slots, int stores>
  static __device__ __forceinline__ void add_rows(float (&sums)[2][lanes], float* scratch, int slot,
                                                  int store) {
#pragma unroll 1
    for (int half = slots / 2; half > 0; half /= 2) {
      float* at = scratch + slot % half * stores + store;
      if (slot >= half && slot < 2 * half) {
#pragma unroll
        for (int i = 0; i < 2 * lanes; ++i) at[i * slots * stores] = sums[i / lanes][i % lanes];
      }
      __syncthreads();
      if (slot < half) {
#pragma unroll
        for (int i = 0; i < 2 * lanes; ++i) sums[i / lanes][i % lanes] += at[i * slots * stores];
      }
      __syncthreads();
    }
  }
};

struct LinkProducts : PositionProducts {
  DenseGradientMap gradient;
  Activation activation;
  const float *scales, *shifts;  // of the input's channels, [C] or [N, C]
  int64_t norm_stride;           // from sample to sample: 0 if shared
};

template <class Tile>
class LinkInputLoader : public InputLoader<Tile> {
 public:
  using T = typename Tile::T;
  static constexpr bool kMaps = true;

  __device__ __forceinline__ LinkInputLoader(const LinkProducts& products, const PositionRange& range,
                                             int first_column)
      : InputLoader<Tile>(products, range, first_column), products_(products) {}

  __device__ __forceinline__ void map(int chunk, T* to) const {
    this->for_each_copy(chunk, [&](auto bytes, int at, int64_t, int64_t sample, bool inside) {
      constexpr int kLanes = decltype(bytes)::value / static_cast<int>(sizeof(T));
      const int64_t values = sample * products_.norm_stride + this->channel();
      if (inside) {
        apply_norm<T, kLanes>(to + at, products_.scales + values, products_.shifts + values,
                              products_.activation);
      }
    });
  }

 private:
  const LinkProducts& products_;
};

struct LinkPositions {
  using Parameters = LinkProducts;
  static constexpr int kGrads = 2;

  template <class Tile>
  static __device__ __forceinline__ auto grad_loader(const Parameters& products, const PositionRange& range,
                                                     int first_row, int second) {
    return GradientLoader<Tile, GradLoader<Tile>>(products.gradient, second, products, range, first_row);
  }
  template <class Tile>
  static __device__ __forceinline__ auto input_loader(const Parameters& products, const PositionRange& range,
                                                      int first_column) {
    return LinkInputLoader<Tile>(products, range, first_column);
  }
};

}  // namespace
}  // namespace kshot::cuda
