// Depthwise convolution, channels_last:
//
//     output[n, y, x, c] = bias[c] + sum_taps input[n, y', x', c] * weight[tap, c]
//
// and the same sum with transposed taps for the gradient of the input; the gradient of the weight sums
// products over positions. Channels are the lanes: a task owns one sample and a range of channels, and walks
// it in blocks of two vectors so that weights and sums stay in registers while rows stream by.
//
//     one row of the target          taps of a segment (kernel rows x kernel columns)
//     [ edge | columns 0..3 | 4..7 | ... | edge ]   <- 4 columns x 2 vectors of sums at a time
//
// Bound by memory: a sample's rows (kernel height x width x channels) stay in L2, so each element comes from
// memory once. The last block is moved back to end at the last channel, not cut, so no masks are needed from
// one vector up.
#include "cpu/depthwise_conv2d.h"

#include <algorithm>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

constexpr int64_t kColumns = 4;

// Calls body(channel, std::integral_constant<vectors>, lanes): a cut vector only if there are fewer channels.
template <class C, class Body>
inline void for_each_channel_block(int64_t begin, int64_t end, const Body& body) {
  constexpr int64_t lanes = kLanes<C>;
  const std::integral_constant<int, 1> one;
  int64_t c = begin;
  for (; c + 2 * lanes <= end; c += 2 * lanes) body(c, std::integral_constant<int, 2>{}, WholeVector{});
  if (end - begin < lanes) return body(begin, one, CutVector{end - begin});
  for (; c < end; c += lanes) body(std::min(c, end - lanes), one, WholeVector{});
}

template <class T>
struct Tap {
  const T* source;  // at the segment's first column
  const T* weight;
};

// `columns` neighbouring targets of one segment: target[j] = start + sum_t source_t[j] * weight_t
template <class T, int vectors, int columns, class Lanes>
inline void gather_columns(const Tap<T>* taps, int64_t tap_count, int64_t source_step,
                           const Vec<Sum<T>>* start, T* target, int64_t target_step, Lanes lanes_used) {
  using C = Sum<T>;
  constexpr int64_t lanes = kLanes<C>;
  Vec<C> sums[columns][vectors];
#pragma GCC unroll 4
  for (int j = 0; j < columns; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sums[j][v] = start[v];
  }
  for (int64_t t = 0; t < tap_count; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      const Vec<C> weight = load_lanes(taps[t].weight + v * lanes, lanes_used);
#pragma GCC unroll 4
      for (int j = 0; j < columns; ++j) {
        sums[j][v] += weight * load_lanes(taps[t].source + j * source_step + v * lanes, lanes_used);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < columns; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      store_lanes(target + j * target_step + v * lanes, sums[j][v], lanes_used);
  }
}

template <class T>
void gather(const DepthwiseGather& args, int64_t n, int64_t channel_begin, int64_t channel_end) {
  using C = Sum<T>;
  const int64_t channels = args.channels;
  const T* source =
      static_cast<const T*>(args.source) + n * args.source_height * args.source_width * channels;
  T* target = static_cast<T*>(args.target) + n * args.target_height * args.target_width * channels;
  const T* weight = static_cast<const T*>(args.weight) + n * args.weight_stride;
  const T* bias = args.bias ? static_cast<const T*>(args.bias) + n * args.bias_stride : nullptr;
  std::vector<Tap<T>> taps;

  const auto gather_segment = [&](const AxisSegment& rows, int64_t row, const AxisSegment& columns,
                                  int64_t channel, auto vectors, auto lanes) {
    constexpr int kVectors = decltype(vectors)::value;
    taps.clear();
    for (const AxisTap& y : rows.taps) {
      const T* line = source + (y.source + row * rows.source_step) * args.source_width * channels + channel;
      const T* line_weight = weight + y.tap * args.kernel_width * channels + channel;
      for (const AxisTap& x : columns.taps) {
        taps.push_back({line + x.source * channels, line_weight + x.tap * channels});
      }
    }
    Vec<C> start[kVectors] = {};
    for (int v = 0; bias && v < kVectors; ++v) start[v] = load_lanes(bias + channel + v * kLanes<C>, lanes);
    const int64_t source_step = columns.source_step * channels, target_step = columns.step * channels;
    T* line =
        target + ((rows.first + row * rows.step) * args.target_width + columns.first) * channels + channel;
    const int64_t tap_count = static_cast<int64_t>(taps.size());
    int64_t j = 0;
    const auto advance = [&](int64_t by) {
      j += by;
      line += by * target_step;
      for (Tap<T>& tap : taps) tap.source += by * source_step;
    };
    for (; j + kColumns <= columns.count; advance(kColumns)) {
      gather_columns<T, kVectors, kColumns>(taps.data(), tap_count, source_step, start, line, target_step,
                                            lanes);
    }
    for (; j < columns.count; advance(1)) {
      gather_columns<T, kVectors, 1>(taps.data(), tap_count, source_step, start, line, target_step, lanes);
    }
  };

  for (const AxisSegment& rows : *args.rows) {
    for (int64_t row = 0; row < rows.count; ++row) {
      for_each_channel_block<C>(channel_begin, channel_end, [&](int64_t channel, auto vectors, auto lanes) {
        for (const AxisSegment& columns : *args.columns) {
          gather_segment(rows, row, columns, channel, vectors, lanes);
        }
      });
    }
  }
}

// sums[k] += sum_j grad[j] * input[j, tap k] for up to `taps` kernel columns of one segment
template <class T, int taps, class Lanes>
inline void weight_gradient_columns(Vec<Sum<T>>* sums, const T* grad, int64_t grad_step,
                                    const T* const* inputs, int64_t input_step, int64_t columns,
                                    Lanes lanes) {
  for (int64_t j = 0; j < columns; ++j) {
    const Vec<Sum<T>> g = load_lanes(grad + j * grad_step, lanes);
#pragma GCC unroll 4
    for (int k = 0; k < taps; ++k) sums[k] += g * load_lanes(inputs[k] + j * input_step, lanes);
  }
}

template <class T>
void weight_gradient(const DepthwiseWeightGradient& args, int64_t n, int64_t channel_begin,
                     int64_t channel_end, Sum<T>* grad_weight, Sum<T>* grad_bias) {
  using C = Sum<T>;
  constexpr int kBlock = 4;  // kernel columns whose sums are in registers at a time
  const ConvGeometry& geometry = args.geometry;
  const int64_t channels = geometry.out_channels;
  const T* input = static_cast<const T*>(args.input) + n * geometry.input_size();
  const T* grad = static_cast<const T*>(args.grad_output) + n * geometry.output_size();

  const auto add_segment = [&](const T* input_line, const T* grad_line, C* line_weight,
                               const AxisSegment& columns, int64_t channel, auto lanes) {
    const int64_t tap_count = static_cast<int64_t>(columns.taps.size());
    const int64_t input_step = columns.source_step * channels;
    const T* grad_first = grad_line + columns.first * channels + channel;
    for (int64_t k = 0; k < tap_count; k += kBlock) {
      const int64_t block = std::min<int64_t>(kBlock, tap_count - k);
      Vec<C> sums[kBlock] = {};
      const T* inputs[kBlock];
      for (int64_t b = 0; b < block; ++b) {
        inputs[b] = input_line + columns.taps[k + b].source * channels + channel;
      }
      const auto run = [&](auto taps) {
        weight_gradient_columns<T, decltype(taps)::value>(sums, grad_first, channels, inputs, input_step,
                                                          columns.count, lanes);
      };
      switch (block) {
        case 1:
          run(std::integral_constant<int, 1>{});
          break;
        case 2:
          run(std::integral_constant<int, 2>{});
          break;
        case 3:
          run(std::integral_constant<int, 3>{});
          break;
        default:
          run(std::integral_constant<int, 4>{});
          break;
      }
      for (int64_t b = 0; b < block; ++b) {
        C* target = line_weight + columns.taps[k + b].tap * channels + channel;
        store_lanes(target, load_lanes(target, lanes) + sums[b], lanes);
      }
    }
  };
  const auto add_row = [&](const AxisSegment& rows, int64_t row, int64_t channel, auto lanes) {
    const T* grad_line = grad + (rows.first + row * rows.step) * geometry.width.output * channels;
    for (const AxisTap& y : rows.taps) {
      const T* input_line = input + (y.source + row * rows.source_step) * geometry.width.input * channels;
      C* line_weight = grad_weight + y.tap * geometry.width.kernel * channels;
      for (const AxisSegment& columns : *args.columns) {
        add_segment(input_line, grad_line, line_weight, columns, channel, lanes);
      }
    }
    if (!grad_bias) return;
    Vec<C> sum = load_lanes(grad_bias + channel, lanes);
    for (int64_t x = 0; x < geometry.width.output; ++x)
      sum += load_lanes(grad_line + x * channels + channel, lanes);
    store_lanes(grad_bias + channel, sum, lanes);
  };

  // Whole vectors only, then the rest as a cut vector: sums are added to, so no channel may come twice.
  for (const AxisSegment& rows : *args.rows) {
    for (int64_t row = 0; row < rows.count; ++row) {
      for (int64_t channel = channel_begin; channel < channel_end; channel += kLanes<C>) {
        with_lanes<C>(std::min(kLanes<C>, channel_end - channel),
                      [&](auto lanes) { add_row(rows, row, channel, lanes); });
      }
    }
  }
}

}  // namespace

void depthwise_gather(const DepthwiseGather& args, int64_t n, int64_t channel_begin, int64_t channel_end) {
  dispatch_dtype(args.dtype, [&](auto* type) {
    gather<std::remove_pointer_t<decltype(type)>>(args, n, channel_begin, channel_end);
  });
}

void depthwise_weight_gradient(const DepthwiseWeightGradient& args, int64_t n, int64_t channel_begin,
                               int64_t channel_end, void* grad_weight, void* grad_bias) {
  dispatch_dtype(args.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    weight_gradient<T>(args, n, channel_begin, channel_end, static_cast<Sum<T>*>(grad_weight),
                       static_cast<Sum<T>*>(grad_bias));
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
