// Rows of a chain's tensors as its links read and write them, channels_last:
//
//     z = activation(x * scale + shift)                   x: raw output of the convolution before
//     y = convolution(z)                                  stored raw, with the moments of each channel
//
// and backward, with G = dL/dy by all uses of y and dL/dz made of it by the convolution:
//
//     G = g + slope * (y - mean) + constant               g: what the next link stored; the rest: its moments
//     h = dL/dz * activation'(x * scale + shift)
//     stored: h * scale      summed: h and h * (x - mean) * inverse_deviation
//
// Nothing of z, G and h is kept: they pass through buffers that stay in the caches. A block of positions adds
// its sums about a pivot q, the mean of all positions before it (its own, if it is the first one): with n
// positions before, m in the block, s = sum (y - q), S = sum (y - q)^2,
//
//     mean <- q + s / (n + m)        squares <- squares + S - s^2 / (n + m)
//
// which is Chan's formula (Chan, Golub, LeVeque 1979) with the block's moments written out. S outweighs the
// squares only where blocks lie far apart, by what then belongs to them; so means of many deviations do no
// harm.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/activation_values.h"
#include "cpu/chained_conv2d.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

using F = Vec<float>;

// The activation, as a constant where a loop is compiled for ReLU alone.
template <bool relu>
inline auto kind_of(Activation activation) {
  if constexpr (relu) {
    return std::integral_constant<Activation, Activation::kRelu>{};
  } else {
    return activation;
  }
}

// Channels [begin, begin + count) of a tensor, and how many elements lie from position to position.
struct Span {
  int64_t begin, count, stride;
};

// Calls body(channel, lanes) for each vector of `count` channels.
template <class Body>
inline void for_each_lanes(int64_t count, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes<float> <= count; c += kLanes<float>) body(c, WholeVector{});
  if (c < count) body(c, CutVector{count - c});
}

// Calls body(channel, lanes, first, end) for blocks of positions [0, count) by one vector of channels: few
// enough positions that their lines stay in L1.
template <class Body>
inline void for_each_channel_block(int64_t count, int64_t channels, const Body& body) {
  const int64_t positions = std::clamp<int64_t>(8192 / std::max<int64_t>(channels, 1), 8, 64);
  for (int64_t p = 0; p < count; p += positions) {
    const int64_t stop = std::min(p + positions, count);
    for_each_lanes(channels, [&](int64_t c, auto lanes) { body(c, lanes, p, stop); });
  }
}

// Calls body(null pointer to the element type, whether the loop is the one for ReLU, as a constant).
template <class Body>
inline void dispatch_chain(DType dtype, Activation activation, const Body& body) {
  const auto with = [&](auto* type) {
    if (activation == Activation::kRelu) {
      body(type, std::true_type{});
    } else {
      body(type, std::false_type{});
    }
  };
  switch (dtype) {
    case DType::kBFloat16:
      return with(static_cast<BFloat16*>(nullptr));
    case DType::kFloat16:
      return with(static_cast<Float16*>(nullptr));
    default:
      return with(static_cast<float*>(nullptr));
  }
}

// Calls body(channel, lanes, first, std::integral_constant<int, positions>) for vectors of channels of a few
// positions at a time: per-channel values are loaded once for these, and memory is still read row by row.
template <class Body>
inline void for_each_few_rows(int64_t positions, int64_t channels, const Body& body) {
  int64_t p = 0;
  for (; p + 4 <= positions; p += 4) {
    for_each_lanes(channels,
                   [&](int64_t c, auto lanes) { body(c, lanes, p, std::integral_constant<int, 4>{}); });
  }
  for (; p < positions; ++p) {
    for_each_lanes(channels,
                   [&](int64_t c, auto lanes) { body(c, lanes, p, std::integral_constant<int, 1>{}); });
  }
}

// `from` points at the first position's channel `span.begin`; `to` holds the span's channels only.
template <class T, bool relu>
inline void load_rows(const ChainInput& input, int64_t sample, const Span& span, const T* from,
                      int64_t positions, float* to, int64_t to_stride) {
  const bool has_norm = input.scale;
  const int64_t at = sample * input.stride + span.begin;
  for_each_few_rows(positions, span.count, [&](int64_t c, auto lanes, int64_t p, auto rows) {
    const F scale = has_norm ? load_lanes(input.scale + at + c, lanes) : F{},
            shift = has_norm ? load_lanes(input.shift + at + c, lanes) : F{};
    constexpr int kRows = decltype(rows)::value;
#pragma GCC unroll 4
    for (int j = 0; j < kRows; ++j) {
      const int64_t i = p + j;
      const F x = load_lanes(from + i * span.stride + c, lanes);
      const F z = activate<float>(kind_of<relu>(input.activation), has_norm ? x * scale + shift : x);
      store_lanes(to + i * to_stride + c, z, lanes);
    }
  });
}

template <class T>
inline void load_gradient_rows(const ChainGradient& gradient, const Span& span, const T* grad,
                               const T* output, int64_t positions, float* to, int64_t to_stride) {
  const float *means = gradient.mean + span.begin, *slopes = gradient.slope + span.begin,
              *constants = gradient.constant + span.begin;
  for_each_few_rows(positions, span.count, [&](int64_t c, auto lanes, int64_t p, auto rows) {
    const F mean = output ? load_lanes(means + c, lanes) : F{},
            slope = output ? load_lanes(slopes + c, lanes) : F{},
            constant = output ? load_lanes(constants + c, lanes) : F{};
    constexpr int kRows = decltype(rows)::value;
#pragma GCC unroll 4
    for (int j = 0; j < kRows; ++j) {
      const int64_t i = p + j;
      F g = load_lanes(grad + i * span.stride + c, lanes);
      if (output) g += (load_lanes(output + i * span.stride + c, lanes) - mean) * slope + constant;
      store_lanes(to + i * to_stride + c, g, lanes);
    }
  });
}

// `to` points at the first position's channel `span.begin`; moments at the mean of channel 0, the squares
// following `channels` later.
template <class T>
inline void store_rows(const float* from, int64_t from_stride, int64_t positions, const Span& span, T* to,
                       bool past_caches, float* moments, int64_t channels, int64_t before) {
  for_each_channel_block(positions, span.count, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    if (!moments) {
      for (int64_t i = p; i < stop; ++i) {
        store_lanes(to + i * span.stride + c, load_lanes(from + i * from_stride + c, lanes), lanes,
                    past_caches);
      }
      return;
    }
    float* means = moments + span.begin + c;
    const float block = static_cast<float>(stop - p), joined = static_cast<float>(before + p),
                after = joined + block;
    const F mean = load_lanes(means, lanes);
    F pivot = mean;
    if (before + p == 0) {
      pivot = F{};
      for (int64_t i = p; i < stop; ++i) pivot += load_lanes(from + i * from_stride + c, lanes);
      pivot *= 1.0f / block;
    }
    F sum = {}, squares = {};
    for (int64_t i = p; i < stop; ++i) {
      const F value = load_lanes(from + i * from_stride + c, lanes), deviation = value - pivot;
      sum += deviation;
      squares += deviation * deviation;
      store_lanes(to + i * span.stride + c, value, lanes, past_caches);
    }
    // About the pivot the block's sum of squares is that about its mean and sum^2 / block, of which joining
    // it with the positions before takes back the share of the block in all of them.
    store_lanes(means, pivot + sum * (1.0f / after), lanes);
    const F total = load_lanes(means + channels, lanes) + squares - sum * sum * (1.0f / after);
    store_lanes(means + channels, total, lanes);
  });
}

// `x` and `to` point at the first position's channel `span.begin`, sums at that of channel 0.
template <class T, bool relu>
inline void store_gradient_rows(const ChainInput& input, int64_t sample, const Span& span, const T* x,
                                const float* from, int64_t from_stride, int64_t positions, T* to,
                                bool past_caches, float* sums) {
  const int64_t at = sample * input.stride + span.begin;
  for_each_channel_block(positions, span.count, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    if (!input.scale) {
      for (int64_t i = p; i < stop; ++i) {
        const F h =
            times_slope<float>(kind_of<relu>(input.activation), load_lanes(from + i * from_stride + c, lanes),
                               load_lanes(x + i * span.stride + c, lanes));
        store_lanes(to + i * span.stride + c, h, lanes, past_caches);
      }
      return;
    }
    const F scale = load_lanes(input.scale + at + c, lanes), shift = load_lanes(input.shift + at + c, lanes),
            mean = load_lanes(input.mean + span.begin + c, lanes);
    F sum = {}, sum_deviation = {};
    for (int64_t i = p; i < stop; ++i) {
      const F value = load_lanes(x + i * span.stride + c, lanes);
      const F h = times_slope<float>(kind_of<relu>(input.activation),
                                     load_lanes(from + i * from_stride + c, lanes), value * scale + shift);
      sum += h;
      sum_deviation += h * (value - mean);
      store_lanes(to + i * span.stride + c, h * scale, lanes, past_caches);
    }
    float* total = sums + span.begin + c;
    store_lanes(total, load_lanes(total, lanes) + sum, lanes);
    total += input.channels;
    const F inverse = load_lanes(input.inverse_deviation + span.begin + c, lanes);
    store_lanes(total, load_lanes(total, lanes) + sum_deviation * inverse, lanes);
  });
}

}  // namespace
}  // namespace kshot::cpu::KSHOT_ISA
