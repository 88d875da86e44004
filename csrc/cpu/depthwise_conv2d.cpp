// Depthwise convolution, channels_last:
//
//     output[n, y, x, c] = bias[c] + sum_taps input[n, y', x', c] * weight[tap, c]
//
// and the same sum with transposed taps for the gradient of the input; the gradient of the weight sums
// products over positions. Channels are the lanes; a task owns one sample and a range of channels. The source
// rows that a target row needs lie in a ring of rows in L2, widened to the sum type and with zeros to both
// sides, so no column is an edge and the tensors are read and written row by row, in order, each element
// once:
//
//     ring   [ 0 0 | source row y     | 0 0 ]        x  taps (kernel rows x kernel columns)
//            [ 0 0 | source row y + 1 | 0 0 ]        =  one target row; 2 vectors of channels by kTile
//            columns at a
//                                                       time are summed in registers
//
// Bound by memory: with a kernel of up to 7x7 the multiply-adds take less time than the traffic from main
// memory.
#include "cpu/depthwise_conv2d.h"

#include <algorithm>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// Calls body(std::integral_constant<int, count>) for 1 <= count <= most.
template <int most, class Body>
inline void with_constant(int64_t count, const Body& body) {
  if constexpr (most > 1) {
    if (count < most) return with_constant<most - 1>(count, body);
  }
  body(std::integral_constant<int, most>{});
}

// Cuts `count` into nearly equal pieces of at most `most`.
template <class Body>
inline void for_each_piece(int64_t count, int64_t most, const Body& body) {
  const int64_t pieces = (count + most - 1) / most;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t from = piece * count / pieces;
    body(from, (piece + 1) * count / pieces - from);
  }
}

// Calls body(first lane, std::integral_constant<int, vectors>) for blocks of two vectors, and one if it is
// left over.
template <class C, class Body>
inline void for_each_block(int64_t width, const Body& body) {
  constexpr int64_t lanes = kLanes<C>;
  int64_t lane = 0;
  for (; lane + 2 * lanes <= width; lane += 2 * lanes) body(lane, std::integral_constant<int, 2>{});
  if (lane < width) body(lane, std::integral_constant<int, 1>{});
}

// A range of channels, widened to whole vectors of the sum type; lanes beyond the last channel are zero.
template <class T>
struct ChannelRange {
  using C = Sum<T>;
  int64_t begin, count, width;

  ChannelRange(int64_t begin, int64_t end)
      : begin(begin), count(end - begin), width((count + kLanes<C> - 1) / kLanes<C> * kLanes<C>) {}

  // `from` and `to` point at the range's first channel.
  void widen(C* to, const T* from) const {
    int64_t c = 0;
    for (; c + kLanes<C> <= count; c += kLanes<C>) store(to + c, load(from + c));
    if (c < count) store(to + c, load_first(from + c, count - c));
  }
  void narrow(T* to, const C* from) const {
    int64_t c = 0;
    for (; c + kLanes<C> <= count; c += kLanes<C>) store(to + c, load(from + c));
    if (c < count) store_first(to + c, load(from + c), count - c);
  }
};

// Rows of one sample, kept in a ring: row y stays until row y + size of the ring comes.
template <class T>
class RowRing {
 public:
  using C = Sum<T>;

  // `source`: the sample; `margin`: columns of zeros to either side.
  RowRing(const T* source, int64_t columns, int64_t channels, const ChannelRange<T>& range, int64_t rows,
          int64_t margin)
      : source_(source + range.begin),
        columns_(columns),
        channels_(channels),
        margin_(margin),
        range_(range) {
    held_.assign(static_cast<size_t>(rows), -1);
    memory_.assign(static_cast<size_t>(rows * row_size()), C(0));
  }

  // Column 0 of row y.
  const C* row(int64_t y) {
    const size_t slot = static_cast<size_t>(y) % held_.size();
    C* line = memory_.data() + static_cast<int64_t>(slot) * row_size() + margin_ * range_.width;
    if (held_[slot] != y) {
      held_[slot] = y;
      const T* from = source_ + y * columns_ * channels_;
      for (int64_t x = 0; x < columns_; ++x) range_.widen(line + x * range_.width, from + x * channels_);
    }
    return line;
  }

 private:
  int64_t row_size() const { return (columns_ + 2 * margin_) * range_.width; }

  const T* source_;
  int64_t columns_, channels_, margin_;
  const ChannelRange<T>& range_;
  std::vector<int64_t> held_;
  std::vector<C> memory_;
};

// Columns that segments reach to the left or right of [0, size).
int64_t margin_of(const std::vector<AxisSegment>& segments, int64_t size) {
  int64_t margin = 0;
  for (const AxisSegment& segment : segments) {
    for (const AxisTap& tap : segment.taps) {
      const int64_t last = tap.source + (segment.count - 1) * segment.source_step;
      margin = std::max({margin, -tap.source, last - size + 1});
    }
  }
  return margin;
}

// Rows that the taps of one target row span.
int64_t span_of(const std::vector<AxisSegment>& segments) {
  int64_t span = 1;
  for (const AxisSegment& segment : segments) {
    for (const AxisTap& a : segment.taps) {
      for (const AxisTap& b : segment.taps) span = std::max(span, a.source - b.source + 1);
    }
  }
  return span;
}

// Cuts channels into ranges whose ring of rows stays in L2, and calls body(range).
template <class T, class Body>
void for_each_range(int64_t begin, int64_t end, int64_t ring_positions, const Body& body) {
  constexpr int64_t kBytes = 512 << 10, kLeast = 64;
  const int64_t fit = kBytes / (ring_positions * static_cast<int64_t>(sizeof(Sum<T>)));
  const int64_t most = std::max(kLeast, fit / kLeast * kLeast);
  for (int64_t c = begin; c < end; c += most) body(ChannelRange<T>(c, std::min(c + most, end)));
}

// One line of the kernel that lies on a source row.
template <class C>
struct Line {
  const C* source;  // column 0
  const C* weight;  // tap 0 of the kernel's row
};

// `count` neighbouring targets: target[j] = start + sum over lines and column taps
template <class C, int vectors, int count>
inline void gather_tile(const std::vector<Line<C>>& lines, const AxisSegment& segment, int64_t first,
                        int64_t width, int64_t lane, const C* start, C* target) {
  constexpr int64_t lanes = kLanes<C>;
  Vec<C> sums[count][vectors];
#pragma GCC unroll 8
  for (int j = 0; j < count; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sums[j][v] = load(start + lane + v * lanes);
  }
  const int64_t step = segment.source_step * width;
  for (const Line<C>& line : lines) {
    for (const AxisTap& tap : segment.taps) {
      const C* source = line.source + (tap.source + first * segment.source_step) * width + lane;
      const C* weight = line.weight + tap.tap * width + lane;
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        const Vec<C> w = load(weight + v * lanes);
#pragma GCC unroll 8
        for (int j = 0; j < count; ++j) sums[j][v] += w * load(source + j * step + v * lanes);
      }
    }
  }
  C* to = target + (segment.first + first * segment.step) * width + lane;
#pragma GCC unroll 8
  for (int j = 0; j < count; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(to + j * segment.step * width + v * lanes, sums[j][v]);
  }
}

template <class C>
void gather_row(const std::vector<Line<C>>& lines, const std::vector<AxisSegment>& segments, int64_t width,
                const C* start, C* target) {
  constexpr int kTile = 6;
  for_each_block<C>(width, [&](int64_t lane, auto vectors) {
    for (const AxisSegment& segment : segments) {
      for_each_piece(segment.count, kTile, [&](int64_t first, int64_t count) {
        with_constant<kTile>(count, [&](auto tile) {
          gather_tile<C, decltype(vectors)::value, decltype(tile)::value>(lines, segment, first, width, lane,
                                                                          start, target);
        });
      });
    }
  });
}

template <class T>
void gather_range(const DepthwiseGather& args, int64_t n, const ChannelRange<T>& range, int64_t span,
                  int64_t margin) {
  using C = Sum<T>;
  const int64_t channels = args.channels, taps = args.kernel_height * args.kernel_width, width = range.width;
  const T* source =
      static_cast<const T*>(args.source) + n * args.source_height * args.source_width * channels;
  T* target =
      static_cast<T*>(args.target) + n * args.target_height * args.target_width * channels + range.begin;
  const T* weight = static_cast<const T*>(args.weight) + n * args.weight_stride + range.begin;
  RowRing<T> ring(source, args.source_width, channels, range, span, margin);
  std::vector<C> weights(static_cast<size_t>(taps * width)), start(static_cast<size_t>(width));
  std::vector<C> finished(static_cast<size_t>(args.target_width * width));
  for (int64_t t = 0; t < taps; ++t) range.widen(weights.data() + t * width, weight + t * channels);
  if (args.bias) {
    range.widen(start.data(), static_cast<const T*>(args.bias) + n * args.bias_stride + range.begin);
  }

  std::vector<Line<C>> lines;
  for (const AxisSegment& segment : *args.rows) {
    for (int64_t j = 0; j < segment.count; ++j) {
      lines.clear();
      for (const AxisTap& tap : segment.taps) {
        const int64_t y = tap.source + j * segment.source_step;
        if (y < 0 || y >= args.source_height) continue;
        lines.push_back({ring.row(y), weights.data() + tap.tap * args.kernel_width * width});
      }
      gather_row(lines, *args.columns, width, start.data(), finished.data());
      T* line = target + (segment.first + j * segment.step) * args.target_width * channels;
      for (int64_t x = 0; x < args.target_width; ++x)
        range.narrow(line + x * channels, finished.data() + x * width);
    }
  }
}

template <class T>
void gather(const DepthwiseGather& args, int64_t n, int64_t channel_begin, int64_t channel_end) {
  const int64_t margin = margin_of(*args.columns, args.source_width), span = span_of(*args.rows);
  for_each_range<T>(channel_begin, channel_end, span * (args.source_width + 2 * margin),
                    [&](const ChannelRange<T>& range) { gather_range(args, n, range, span, margin); });
}

// sums[k] += sum over columns of grad * input at column tap k, for `taps` of them
template <class C, int vectors, int taps>
inline void gradient_tile(const C* grad, const C* input, const AxisTap* tap, int64_t source_step,
                          int64_t columns, int64_t width, C* sums) {
  constexpr int64_t lanes = kLanes<C>;
  Vec<C> totals[taps][vectors];
  const C* sources[taps];
#pragma GCC unroll 8
  for (int k = 0; k < taps; ++k) {
    sources[k] = input + tap[k].source * width;
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) totals[k][v] = load(sums + tap[k].tap * width + v * lanes);
  }
  for (int64_t j = 0; j < columns; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      const Vec<C> g = load(grad + j * width + v * lanes);
#pragma GCC unroll 8
      for (int k = 0; k < taps; ++k)
        totals[k][v] += g * load(sources[k] + j * source_step * width + v * lanes);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < taps; ++k) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(sums + tap[k].tap * width + v * lanes, totals[k][v]);
  }
}

template <class T>
void weight_gradient_range(const DepthwiseWeightGradient& args, int64_t n, const ChannelRange<T>& range,
                           int64_t span, int64_t margin, Sum<T>* grad_weight, Sum<T>* grad_bias) {
  using C = Sum<T>;
  constexpr int kTaps = 5;
  const ConvGeometry& geometry = args.geometry;
  const int64_t channels = geometry.out_channels, out_columns = geometry.width.output, width = range.width;
  const T* input = static_cast<const T*>(args.input) + n * geometry.input_size();
  const T* grad = static_cast<const T*>(args.grad_output) + n * geometry.output_size();
  const AxisSegment &rows = args.rows->front(), &columns = args.columns->front();
  RowRing<T> ring(input, geometry.width.input, channels, range, span, margin);
  RowRing<T> grad_rows(grad, out_columns, channels, range, 1, 0);
  std::vector<C> sums(static_cast<size_t>((geometry.taps() + 1) * width));  // the last ones are the bias's
  C* bias_sums = sums.data() + geometry.taps() * width;

  for (int64_t j = 0; j < rows.count; ++j) {
    const C* line = grad_rows.row(j);
    for (int64_t x = 0; x < out_columns; ++x) {
      for (int64_t lane = 0; lane < width; lane += kLanes<C>) {
        store(bias_sums + lane, load(bias_sums + lane) + load(line + x * width + lane));
      }
    }
    for (const AxisTap& tap : rows.taps) {
      const int64_t y = tap.source + j * rows.source_step;
      if (y < 0 || y >= geometry.height.input) continue;
      const C* source = ring.row(y);
      C* line_sums = sums.data() + tap.tap * geometry.width.kernel * width;
      for_each_block<C>(width, [&](int64_t lane, auto vectors) {
        for_each_piece(geometry.width.kernel, kTaps, [&](int64_t first, int64_t count) {
          with_constant<kTaps>(count, [&](auto tile) {
            gradient_tile<C, decltype(vectors)::value, decltype(tile)::value>(
                line + lane, source + lane, columns.taps.data() + first, columns.source_step, out_columns,
                width, line_sums + lane);
          });
        });
      });
    }
  }
  const auto add = [&](C* to, const C* from) {
    for (int64_t c = 0; c < range.count; ++c) to[c] += from[c];
  };
  for (int64_t t = 0; t < geometry.taps(); ++t) {
    add(grad_weight + t * channels + range.begin, sums.data() + t * width);
  }
  add(grad_bias + range.begin, bias_sums);
}

template <class T>
void weight_gradient(const DepthwiseWeightGradient& args, int64_t n, int64_t channel_begin,
                     int64_t channel_end, Sum<T>* grad_weight, Sum<T>* grad_bias) {
  const int64_t columns = args.geometry.width.input;
  const int64_t margin = margin_of(*args.columns, columns), span = span_of(*args.rows);
  for_each_range<T>(channel_begin, channel_end, span * (columns + 2 * margin),
                    [&](const ChannelRange<T>& range) {
                      weight_gradient_range(args, n, range, span, margin, grad_weight, grad_bias);
                    });
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
