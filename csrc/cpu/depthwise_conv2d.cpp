// Depthwise convolution, channels_last:
//
//     output[n, y, x, c] = bias[c] + sum_taps input[n, y', x', c] * weight[tap, c]
//
// and the same sum with transposed taps for the gradient of the input; the gradient of the weight sums
// products over positions. Channels are the lanes; a task owns some samples and a range of channels. The
// source rows that a target row needs lie in a ring of rows in L1, widened to the sum type and with zeros to
// both sides, so no column is an edge; the lines of the next row are asked for while one is worked on:
//
//     ring   [ 0 0 | source row y     | 0 0 ]
//            [ 0 0 | source row y + 1 | 0 0 ]
//
// A tile is kTile neighbouring columns of a target row by two vectors of channels, summed in registers; every
// source vector is loaded once and feeds all columns that it reaches.
//
// The backward pass makes both gradients row by row side by side, so that what one has brought to the caches
// serves the other. Bound by memory: with a kernel of up to 5x5 the multiply-adds take less time than the
// traffic from main memory.
#include "cpu/depthwise_conv2d.h"

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>

#include "common/aligned_buffer.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// A tile: so many columns by two vectors of channels. Fewer sums could not hide the latency of the additions.
#if defined(__AVX512F__)
constexpr int kTile = 8;  // 16 sums, up to 14 weights, 2 sources: 32 registers
#else
constexpr int kTile = 4;
#endif
constexpr int kLeastColumns = 4;  // fewer are worked on one by one
constexpr int kVectors = 2;
template <class C>
constexpr int64_t kBlock = kVectors * kLanes<C>;  // channels of a tile

// A range of channels, widened to whole blocks of the sum type; lanes beyond the last channel are zero.
template <class T>
struct ChannelRange {
  using C = Sum<T>;
  int64_t begin, count, width;

  ChannelRange(int64_t begin, int64_t end)
      : begin(begin), count(end - begin), width((count + kBlock<C> - 1) / kBlock<C> * kBlock<C>) {}

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

// Columns of zeros that a row of `size` needs on each side.
struct Margins {
  int64_t left = 0, right = 0;

  // What `columns` reach, where whole tiles of targets are computed.
  Margins(const std::vector<AxisSegment>& columns, int64_t size) {
    for (const AxisSegment& segment : columns) {
      const int64_t count = (segment.count + kTile - 1) / kTile * kTile;
      for (const AxisTap& tap : segment.taps) {
        const int64_t last = tap.source + (count - 1) * segment.source_step;
        left = std::max(left, -tap.source);
        right = std::max(right, last - size + 1);
      }
    }
  }
  Margins(int64_t left, int64_t right) : left(left), right(right) {}
};

// Rows of a source tensor that will be needed soon: their lines are asked for piece by piece.
struct AheadRows {
  const char* first;
  int64_t row_bytes, column_bytes, lane_bytes, count;
  static constexpr int64_t kLine = 64;

  // For `columns` columns by the channels of a tile.
  template <int columns>
  void ask(int64_t column, int64_t lane) const {
    for (int64_t r = 0; r < count; ++r) {
      const char* at = first + r * row_bytes + column * column_bytes + lane * lane_bytes;
#pragma GCC unroll 16
      for (int j = 0; j < columns; ++j, at += column_bytes) {
        __builtin_prefetch(at);
        __builtin_prefetch(at + kLine);
      }
    }
  }
};

// Rows of one sample, kept in a ring: row y stays until row y + size of the ring comes.
template <class T>
class RowRing {
 public:
  using C = Sum<T>;

  RowRing(int64_t columns, int64_t channels, const ChannelRange<T>& range, int64_t rows, Margins margins)
      : columns_(columns),
        channels_(channels),
        margins_(margins),
        range_(range),
        held_(static_cast<size_t>(rows), -1),
        memory_(rows * row_size()) {
    std::fill(memory_.data(), memory_.data() + rows * row_size(), C(0));
  }

  // `sample`: its first element.
  void start(const T* sample) {
    source_ = sample + range_.begin;
    std::fill(held_.begin(), held_.end(), -1);
  }

  // Where to find the `count` rows from row y on in memory, to ask for them ahead of time.
  AheadRows ahead(int64_t y, int64_t count) const {
    const int64_t column = channels_ * static_cast<int64_t>(sizeof(T)), row = columns_ * column;
    return {reinterpret_cast<const char*>(source_) + y * row, row, column, sizeof(T), count};
  }

  // Column 0 of row y.
  const C* row(int64_t y) {
    const size_t slot = static_cast<size_t>(y) % held_.size();
    C* line = memory_.data() + static_cast<int64_t>(slot) * row_size() + margins_.left * range_.width;
    if (held_[slot] != y) {
      held_[slot] = y;
      const T* from = source_ + y * columns_ * channels_;
      for (int64_t x = 0; x < columns_; ++x) range_.widen(line + x * range_.width, from + x * channels_);
    }
    return line;
  }

 private:
  int64_t row_size() const { return (margins_.left + columns_ + margins_.right) * range_.width; }

  int64_t columns_, channels_;
  Margins margins_;
  const ChannelRange<T>& range_;
  const T* source_ = nullptr;
  std::vector<int64_t> held_;
  AlignedBuffer<C> memory_;
};

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

// The taps of each target row that lie within the source.
std::vector<std::vector<AxisTap>> taps_of_rows(const std::vector<AxisSegment>& segments, int64_t targets,
                                               int64_t sources) {
  std::vector<std::vector<AxisTap>> rows(static_cast<size_t>(targets));
  for (const AxisSegment& segment : segments) {
    for (int64_t j = 0; j < segment.count; ++j) {
      for (const AxisTap& tap : segment.taps) {
        const int64_t source = tap.source + j * segment.source_step;
        if (source < 0 || source >= sources) continue;
        rows[static_cast<size_t>(segment.first + j * segment.step)].push_back({tap.tap, source});
      }
    }
  }
  return rows;
}

// Cuts channels into ranges whose `ring_positions` stay in L1, and calls body(range).
template <class T, class Body>
void for_each_range(int64_t begin, int64_t end, int64_t ring_positions, const Body& body) {
  constexpr int64_t kBytes = 40 << 10, kLeast = 64;
  const int64_t fit = kBytes / (ring_positions * static_cast<int64_t>(sizeof(Sum<T>)));
  const int64_t most = std::max(kLeast, fit / kLeast * kLeast);
  for (int64_t c = begin; c < end; c += most) body(ChannelRange<T>(c, std::min(c + most, end)));
}

// One line of the kernel that lies on a source row.
template <class C>
struct Line {
  const C* source;  // column 0
  C* taps;          // of the kernel's row: weights, or sums of the gradient
};

// Columns of a segment whose taps are neighbours, in the order of their sources.
struct Columns {
  const AxisSegment* segment;
  int64_t first_source;         // that of the first target's first tap
  int64_t first_tap, tap_step;  // the taps in the order of their sources

  // Whether `segment` is of this kind; the kernels below are compiled for the usual counts.
  static bool fit(const AxisSegment& segment) {
    const size_t count = segment.taps.size();
    const bool usual = segment.source_step == 1
                           ? (1 <= count && count <= 5) || count == 7
                           : segment.source_step == 2 && (count == 3 || count == 5 || count == 7);
    if (!usual || segment.count < kLeastColumns) return false;
    const int64_t step = count > 1 ? segment.taps[1].source - segment.taps[0].source : 1;
    if (step != 1 && step != -1) return false;
    const int64_t tap_step = count > 1 ? segment.taps[1].tap - segment.taps[0].tap : 0;
    for (size_t k = 0; k < count; ++k) {
      const int64_t n = static_cast<int64_t>(k);
      if (segment.taps[k].source != segment.taps[0].source + n * step) return false;
      if (segment.taps[k].tap != segment.taps[0].tap + n * tap_step) return false;
    }
    return true;
  }

  explicit Columns(const AxisSegment& segment) : segment(&segment) {
    const bool ascending = segment.taps.back().source >= segment.taps.front().source;
    const AxisTap& first = ascending ? segment.taps.front() : segment.taps.back();
    first_source = first.source;
    first_tap = first.tap;
    tap_step =
        segment.taps.size() < 2 ? 0 : (segment.taps[1].tap - segment.taps[0].tap) * (ascending ? 1 : -1);
  }
};

// Calls body(std::integral_constant<int, taps>, std::integral_constant<int, source step>) for fitting
// columns.
template <class Body>
void with_shape(const Columns& columns, const Body& body) {
  constexpr std::integral_constant<int, 1> one{};
  constexpr std::integral_constant<int, 2> two{};
  const bool strided = columns.segment->source_step == 2;
  switch (columns.segment->taps.size()) {
    case 1:
      return body(std::integral_constant<int, 1>{}, one);
    case 2:
      return body(std::integral_constant<int, 2>{}, one);
    case 3:
      return strided ? body(std::integral_constant<int, 3>{}, two)
                     : body(std::integral_constant<int, 3>{}, one);
    case 4:
      return body(std::integral_constant<int, 4>{}, one);
    case 5:
      return strided ? body(std::integral_constant<int, 5>{}, two)
                     : body(std::integral_constant<int, 5>{}, one);
    default:
      return strided ? body(std::integral_constant<int, 7>{}, two)
                     : body(std::integral_constant<int, 7>{}, one);
  }
}

// Walks over the sources of one tile and line, and calls meet(column, tap, vector, source value) wherever a
// column of the tile has a tap there. The pointer walks: few addresses, few registers.
template <int taps, int step, class Meet>
__attribute__((always_inline)) inline void for_each_meeting(const float* source, int64_t width,
                                                            const Meet& meet) {
#pragma GCC unroll 32
  for (int i = 0; i < (kTile - 1) * step + taps; ++i, source += width) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const Vec<float> value = load(source + v * kLanes<float>);
#pragma GCC unroll 7
      for (int k = 0; k < taps; ++k) {
        const int j = (i - k) / step;
        if (i >= k && (i - k) % step == 0 && j < kTile) meet(j, k, v, value);
      }
    }
  }
}

// A row of targets: `count` channels of columns that lie `stride` elements apart.
template <class C>
struct TargetRow {
  C* first;
  int64_t stride, count;
  bool past_caches;

  // Columns column, column + step, ... `used` of them, and as many of the vectors as there are channels.
  // Inlined, as the values would leave their registers otherwise.
  template <int columns, int vectors>
  __attribute__((always_inline)) void store_tile(int64_t column, int64_t step, int64_t used, int64_t lane,
                                                 const Vec<C> (&values)[columns][vectors]) const {
    const auto each = [&](int v, const auto& store_one) {
      C* to = first + column * stride + lane + v * kLanes<C>;
#pragma GCC unroll 8
      for (int j = 0; j < columns; ++j, to += step * stride) {
        if (j < used) store_one(to, values[j][v]);
      }
    };
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      const int64_t left = count - lane - v * kLanes<C>;
      if (left >= kLanes<C> && past_caches) {
        each(v, [](C* p, Vec<C> value) { store_past_caches(p, value); });
      } else if (left >= kLanes<C>) {
        each(v, [](C* p, Vec<C> value) { store(p, value); });
      } else if (left > 0) {
        each(v, [&](C* p, Vec<C> value) { store_first(p, value, left); });
      }
    }
  }
};

// target[j] = start + sum over lines and taps, kTile columns at a time. Targets beyond the segment's last
// are computed from the margin and left out.
template <int taps, int step>
void gather_columns(const std::vector<Line<float>>& lines, const Columns& columns, int64_t width,
                    const float* start, const AheadRows& ahead, const TargetRow<float>& target) {
  using C = float;
  const AxisSegment& segment = *columns.segment;
  const int64_t tap_stride = columns.tap_step * width;
  for (int64_t first = 0; first < segment.count; first += kTile) {
    const int64_t from = (columns.first_source + first * step) * width;
    const int64_t count = std::min<int64_t>(kTile, segment.count - first);
    const int64_t column = segment.first + first * segment.step;
    for (int64_t lane = 0; lane < width; lane += kBlock<C>) {
      ahead.ask<kTile * step>(first * step, lane);
      Vec<C> sums[kTile][kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[j][v] = load(start + lane + v * kLanes<C>);
      }
      for (const Line<C>& line : lines) {
        Vec<C> weights[taps][kVectors];
        const C* weight = line.taps + columns.first_tap * width + lane;
#pragma GCC unroll 7
        for (int k = 0; k < taps; ++k, weight += tap_stride) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) weights[k][v] = load(weight + v * kLanes<C>);
        }
        for_each_meeting<taps, step>(
            line.source + from + lane, width,
            [&](int j, int k, int v, const Vec<C>& value) { sums[j][v] += weights[k][v] * value; });
      }
      target.store_tile<kTile, kVectors>(column, segment.step, count, lane, sums);
    }
  }
}

// The same for any taps, column by column.
template <class C>
void gather_segment_slowly(const std::vector<Line<C>>& lines, const AxisSegment& segment, int64_t width,
                           const C* start, const TargetRow<C>& target) {
  for (int64_t j = 0; j < segment.count; ++j) {
    for (int64_t lane = 0; lane < width; lane += kLanes<C>) {
      Vec<C> sum[1][1] = {{load(start + lane)}};
      for (const Line<C>& line : lines) {
        for (const AxisTap& tap : segment.taps) {
          const int64_t source = tap.source + j * segment.source_step;
          sum[0][0] += load(line.taps + tap.tap * width + lane) * load(line.source + source * width + lane);
        }
      }
      target.template store_tile<1, 1>(segment.first + j * segment.step, 1, 1, lane, sum);
    }
  }
}

void gather_segment(const std::vector<Line<float>>& lines, const AxisSegment& segment, int64_t width,
                    const float* start, const AheadRows& ahead, const TargetRow<float>& target) {
  if (!Columns::fit(segment)) return gather_segment_slowly(lines, segment, width, start, target);
  const Columns columns(segment);
  with_shape(columns, [&](auto taps, auto step) {
    gather_columns<taps, step>(lines, columns, width, start, ahead, target);
  });
}
void gather_segment(const std::vector<Line<double>>& lines, const AxisSegment& segment, int64_t width,
                    const double* start, const AheadRows&, const TargetRow<double>& target) {
  gather_segment_slowly(lines, segment, width, start, target);
}

// Makes target rows of a gather over a range of channels, sample by sample.
template <class T>
class GatherPass {
 public:
  using C = Sum<T>;

  GatherPass(const DepthwiseGather& args, const ChannelRange<T>& range)
      : args_(args),
        range_(range),
        taps_(args.kernel_height * args.kernel_width),
        rows_(taps_of_rows(*args.rows, args.target_height, args.source_height)),
        ring_(args.source_width, args.channels, range, span_of(*args.rows),
              Margins(*args.columns, args.source_width)),
        weights_(taps_ * range.width),
        start_(range.width),
        finished_(std::is_same_v<T, C> ? 0 : args.target_width * range.width) {
    for (const std::vector<AxisTap>& taps : rows_) {
      int64_t last = last_sources_.empty() ? 0 : last_sources_.back();
      for (const AxisTap& tap : taps) last = std::max(last, tap.source);
      last_sources_.push_back(last);
    }
    std::fill(start_.data(), start_.data() + range.width, C(0));
    past_caches_ = args.past_caches && can_pass_caches(static_cast<const T*>(args.target), args.channels);
  }
  ~GatherPass() {
    if (past_caches_) finish_stores();
  }

  void start(int64_t n) {
    const int64_t channels = args_.channels;
    ring_.start(static_cast<const T*>(args_.source) +
                n * args_.source_height * args_.source_width * channels);
    target_ = static_cast<T*>(args_.target) + n * args_.target_height * args_.target_width * channels +
              range_.begin;
    if (!has_weights_ || args_.weight_stride) {
      const T* weight = static_cast<const T*>(args_.weight) + n * args_.weight_stride + range_.begin;
      for (int64_t t = 0; t < taps_; ++t)
        range_.widen(weights_.data() + t * range_.width, weight + t * channels);
    }
    if (args_.bias && (!has_weights_ || args_.bias_stride)) {
      range_.widen(start_.data(), static_cast<const T*>(args_.bias) + n * args_.bias_stride + range_.begin);
    }
    has_weights_ = true;
  }

  void rows(int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) row(y);
  }

 private:
  void row(int64_t y) {
    const int64_t width = range_.width;
    lines_.clear();
    for (const AxisTap& tap : rows_[static_cast<size_t>(y)]) {
      lines_.push_back({ring_.row(tap.source), weights_.data() + tap.tap * args_.kernel_width * width});
    }
    T* line = target_ + y * args_.target_width * args_.channels;
    TargetRow<C> target{finished_.data(), width, width, false};
    if constexpr (std::is_same_v<T, C>) target = {line, args_.channels, range_.count, past_caches_};
    const AheadRows ahead = ring_.ahead(last_source(y) + 1, last_source(y + 1) - last_source(y));
    for (const AxisSegment& segment : *args_.columns) {
      gather_segment(lines_, segment, width, start_.data(), ahead, target);
    }
    if constexpr (!std::is_same_v<T, C>) {
      for (int64_t x = 0; x < args_.target_width; ++x) {
        range_.narrow(line + x * args_.channels, finished_.data() + x * width);
      }
    }
  }

  // The last source row that target rows up to y read.
  int64_t last_source(int64_t y) const {
    return last_sources_[static_cast<size_t>(std::min(y, args_.target_height - 1))];
  }

  const DepthwiseGather& args_;
  const ChannelRange<T>& range_;
  int64_t taps_;
  std::vector<std::vector<AxisTap>> rows_;
  std::vector<int64_t> last_sources_;
  RowRing<T> ring_;
  AlignedBuffer<C> weights_, start_, finished_;
  std::vector<Line<C>> lines_;
  T* target_ = nullptr;
  bool has_weights_ = false, past_caches_ = false;
};

// sums[k] += sum over columns of grad * input at column tap k, for every line, and bias_sums += sum of grad;
// `grad` ends in zeros
template <int taps, int step>
void gradient_columns(const std::vector<Line<float>>& lines, const Columns& columns, int64_t width,
                      const float* grad, float* bias_sums, const AheadRows& ahead_input,
                      const AheadRows& ahead_grad) {
  using C = float;
  const int64_t tap_stride = columns.tap_step * width;
  for (int64_t first = 0; first < columns.segment->count; first += kTile) {
    const int64_t from = (columns.first_source + first * step) * width;
    for (int64_t lane = 0; lane < width; lane += kBlock<C>) {
      ahead_input.ask<kTile * step>(first * step, lane);
      ahead_grad.ask<kTile>(first, lane);
      Vec<C> grads[kTile][kVectors];
      const C* at = grad + first * width + lane;
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j, at += width) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) grads[j][v] = load(at + v * kLanes<C>);
      }
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        Vec<C> total = load(bias_sums + lane + v * kLanes<C>);
#pragma GCC unroll 8
        for (int j = 0; j < kTile; ++j) total += grads[j][v];
        store(bias_sums + lane + v * kLanes<C>, total);
      }
      for (const Line<C>& line : lines) {
        C* const first_sum = line.taps + columns.first_tap * width + lane;
        Vec<C> sums[taps][kVectors];
        const C* sum = first_sum;
#pragma GCC unroll 7
        for (int k = 0; k < taps; ++k, sum += tap_stride) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sums[k][v] = load(sum + v * kLanes<C>);
        }
        for_each_meeting<taps, step>(
            line.source + from + lane, width,
            [&](int j, int k, int v, const Vec<C>& value) { sums[k][v] += grads[j][v] * value; });
        C* target = first_sum;
#pragma GCC unroll 7
        for (int k = 0; k < taps; ++k, target += tap_stride) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) store(target + v * kLanes<C>, sums[k][v]);
        }
      }
    }
  }
}

// The same for any taps, tap by tap.
template <class C>
void gradient_segment_slowly(const std::vector<Line<C>>& lines, const AxisSegment& segment, int64_t width,
                             const C* grad, C* bias_sums) {
  for (int64_t j = 0; j < segment.count; ++j) {
    for (int64_t lane = 0; lane < width; lane += kLanes<C>) {
      store(bias_sums + lane, load(bias_sums + lane) + load(grad + j * width + lane));
    }
  }
  for (const Line<C>& line : lines) {
    for (const AxisTap& tap : segment.taps) {
      C* sums = line.taps + tap.tap * width;
      for (int64_t lane = 0; lane < width; lane += kLanes<C>) {
        Vec<C> sum = load(sums + lane);
        for (int64_t j = 0; j < segment.count; ++j) {
          const int64_t source = tap.source + j * segment.source_step;
          sum += load(grad + j * width + lane) * load(line.source + source * width + lane);
        }
        store(sums + lane, sum);
      }
    }
  }
}

void gradient_segment(const std::vector<Line<float>>& lines, const AxisSegment& segment, int64_t width,
                      const float* grad, float* bias_sums, const AheadRows& ahead_input,
                      const AheadRows& ahead_grad) {
  if (!Columns::fit(segment)) return gradient_segment_slowly(lines, segment, width, grad, bias_sums);
  const Columns columns(segment);
  with_shape(columns, [&](auto taps, auto step) {
    // Kernels of even width, or one, are too rare to compile a loop for.
    if constexpr (taps > 1 && taps % 2 == 1) {
      gradient_columns<taps, step>(lines, columns, width, grad, bias_sums, ahead_input, ahead_grad);
    } else {
      gradient_segment_slowly(lines, segment, width, grad, bias_sums);
    }
  });
}
void gradient_segment(const std::vector<Line<double>>& lines, const AxisSegment& segment, int64_t width,
                      const double* grad, double* bias_sums, const AheadRows&, const AheadRows&) {
  gradient_segment_slowly(lines, segment, width, grad, bias_sums);
}

// Sums the gradients of weight and bias over rows of the output, over a range of channels.
template <class T>
class GradientPass {
 public:
  using C = Sum<T>;

  GradientPass(const DepthwiseWeightGradient& args, const ChannelRange<T>& range)
      : args_(args),
        range_(range),
        rows_(taps_of_rows(*args.rows, args.geometry.height.output, args.geometry.height.input)),
        input_(args.geometry.width.input, args.geometry.in_channels, range, span_of(*args.rows),
               Margins(*args.columns, args.geometry.width.input)),
        grad_(args.geometry.width.output, args.geometry.out_channels, range, 1, Margins(0, kTile)),
        sums_((args.geometry.taps() + 1) * range.width) {
    std::fill(sums_.data(), sums_.data() + (args.geometry.taps() + 1) * range.width, C(0));
  }

  void start(int64_t n) {
    input_.start(static_cast<const T*>(args_.input) + n * args_.geometry.input_size());
    grad_.start(static_cast<const T*>(args_.grad_output) + n * args_.geometry.output_size());
  }

  void row(int64_t y) {
    const int64_t width = range_.width;
    const C* grad = grad_.row(y);
    lines_.clear();
    for (const AxisTap& tap : rows_[static_cast<size_t>(y)]) {
      lines_.push_back(
          {input_.row(tap.source), sums_.data() + tap.tap * args_.geometry.width.kernel * width});
    }
    C* bias_sums = sums_.data() + args_.geometry.taps() * width;
    const int64_t last =
        rows_[static_cast<size_t>(y)].empty() ? 0 : rows_[static_cast<size_t>(y)].back().source;
    gradient_segment(lines_, args_.columns->front(), width, grad, bias_sums,
                     input_.ahead(last + 1, args_.geometry.height.stride), grad_.ahead(y + 1, 1));
  }

  // Adds the sums to grad_weight [taps, C] and grad_bias [C].
  void finish(C* grad_weight, C* grad_bias) const {
    const auto add = [&](C* to, const C* from) {
      for (int64_t c = 0; c < range_.count; ++c) to[c] += from[c];
    };
    const int64_t taps = args_.geometry.taps();
    for (int64_t t = 0; t < taps; ++t) {
      add(grad_weight + t * args_.geometry.out_channels + range_.begin, sums_.data() + t * range_.width);
    }
    add(grad_bias + range_.begin, sums_.data() + taps * range_.width);
  }

 private:
  const DepthwiseWeightGradient& args_;
  const ChannelRange<T>& range_;
  std::vector<std::vector<AxisTap>> rows_;
  RowRing<T> input_, grad_;
  AlignedBuffer<C> sums_;
  std::vector<Line<C>> lines_;
};

int64_t ring_positions(const std::vector<AxisSegment>& rows, const std::vector<AxisSegment>& columns,
                       int64_t source_width) {
  const Margins margins(columns, source_width);
  return span_of(rows) * (margins.left + source_width + margins.right);
}

template <class T>
void gather(const DepthwiseGather& args, const DepthwiseTask& task) {
  const int64_t positions = ring_positions(*args.rows, *args.columns, args.source_width);
  for_each_range<T>(task.channel_begin, task.channel_end, positions, [&](const ChannelRange<T>& range) {
    GatherPass<T> pass(args, range);
    for (int64_t n = task.sample_begin; n < task.sample_end; ++n) {
      pass.start(n);
      pass.rows(0, args.target_height);
    }
  });
}

template <class T>
void backward(const DepthwiseGather* input_gradient, const DepthwiseWeightGradient& gradient,
              const DepthwiseTask& task, Sum<T>* grad_weight, Sum<T>* grad_bias) {
  const ConvGeometry& geometry = gradient.geometry;
  int64_t positions = ring_positions(*gradient.rows, *gradient.columns, geometry.width.input);
  if (input_gradient) {
    positions +=
        ring_positions(*input_gradient->rows, *input_gradient->columns, input_gradient->source_width);
  }
  for_each_range<T>(task.channel_begin, task.channel_end, positions, [&](const ChannelRange<T>& range) {
    GradientPass<T> sums(gradient, range);
    std::optional<GatherPass<T>> gathered;
    if (input_gradient) gathered.emplace(*input_gradient, range);
    for (int64_t n = task.sample_begin; n < task.sample_end; ++n) {
      sums.start(n);
      if (gathered) gathered->start(n);
      int64_t done = 0;  // rows of the input's gradient
      for (int64_t y = 0; y < geometry.height.output; ++y) {
        sums.row(y);
        const int64_t next = y + 1 < geometry.height.output
                                 ? std::min((y + 1) * geometry.height.stride, geometry.height.input)
                                 : geometry.height.input;
        if (gathered) gathered->rows(done, next);
        done = next;
      }
    }
    sums.finish(grad_weight, grad_bias);
  });
}

}  // namespace

void depthwise_gather(const DepthwiseGather& args, const DepthwiseTask& task) {
  dispatch_dtype(args.dtype, [&](auto* type) { gather<std::remove_pointer_t<decltype(type)>>(args, task); });
}

void depthwise_backward(const DepthwiseGather* input_gradient, const DepthwiseWeightGradient& gradient,
                        const DepthwiseTask& task, void* grad_weight, void* grad_bias) {
  dispatch_dtype(gradient.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    backward<T>(input_gradient, gradient, task, static_cast<Sum<T>*>(grad_weight),
                static_cast<Sum<T>*>(grad_bias));
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
