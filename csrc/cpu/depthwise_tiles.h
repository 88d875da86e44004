// Tiles of a depthwise convolution: kTile neighbouring columns by two vectors of channels, in registers.
//
// Every source vector is loaded once and feeds all columns of the tile that it reaches:
//
//     sources   s0 s1 s2 s3 s4 s5 s6 s7 s8 s9      3 taps, stride 1
//     targets      t0 t1 t2 t3 t4 t5 t6 t7         t0 += w0 s0 + w1 s1 + w2 s2, t1 += w0 s1 + ...
//
// Sources before or beyond the row are left out: they are zeros of the padding.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/conv_geometry.h"
#include "cpu/activation_values.h"
#include "cpu/depthwise_rows.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {

// Fewer sums could not hide the latency of the additions.
#if defined(__AVX512F__)
constexpr int kTile = 8;  // 16 sums, up to 14 weights, 2 sources: 32 registers
#else
constexpr int kTile = 4;
#endif
constexpr int kLeastColumns = 4;  // fewer are worked on one by one

// A line of the kernel on a source row.
template <class C>
struct Line {
  const C* source;  // column 0
  C* taps;          // of the kernel's row: weights, or sums of the gradient
};

// The source rows under one target row.
template <class C>
struct Lines {
  std::vector<Line<C>> each;
  int64_t columns, column_stride;  // of the source rows
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

// Walks over the sources of one tile and line, of which those in [begin, end) exist, and calls
// meet(column, tap, vector, source value) wherever a column of the tile has a tap there. The pointer walks:
// few addresses, few registers. `whole`: all columns of the tile exist, otherwise the first `count`; the
// others meet nothing.
template <int taps, int step, bool whole, class Meet>
__attribute__((always_inline)) inline void for_each_meeting(const float* source, int64_t stride,
                                                            int64_t begin, int64_t end, int64_t count,
                                                            const Meet& meet) {
#pragma GCC unroll 32
  for (int i = 0; i < (kTile - 1) * step + taps; ++i, source += stride) {
    if (i < begin || i >= end) continue;
    Vec<float> values[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) values[v] = load(source + v * kLanes<float>);
#pragma GCC unroll 7
    for (int k = 0; k < taps; ++k) {
      const int j = (i - k) / step;
      if (i < k || (i - k) % step != 0 || j >= kTile || (!whole && j >= count)) continue;
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) meet(j, k, v, values[v]);
    }
  }
}

// A row of targets: `count` channels of columns that lie `stride` elements apart, and what bounds them.
template <class C>
struct TargetRow {
  C* first;
  int64_t stride, count;
  bool past_caches;
  Bounds bounds = {};

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

// target[j] = start + sum over lines and taps, kTile columns at a time; `width` elements lie between the
// taps' rows.
template <int taps, int step>
void gather_columns(const Lines<float>& lines, const Columns& columns, int64_t width, const float* start,
                    const AheadRows& ahead, const TargetRow<float>& target) {
  using C = float;
  const AxisSegment& segment = *columns.segment;
  const int64_t tap_stride = columns.tap_step * width;
  for (int64_t first = 0; first < segment.count; first += kTile) {
    const int64_t from = columns.first_source + first * step;
    const int64_t count = std::min<int64_t>(kTile, segment.count - first);
    const int64_t end = std::min(lines.columns - from, (count - 1) * step + taps);
    const int64_t column = segment.first + first * segment.step;
    for (int64_t lane = 0; lane < width; lane += kBlock<C>) {
      ahead.ask<kTile * step>(first * step, lane);
      Vec<C> sums[kTile][kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[j][v] = load(start + lane + v * kLanes<C>);
      }
      for (const Line<C>& line : lines.each) {
        Vec<C> weights[taps][kVectors];
        const C* weight = line.taps + columns.first_tap * width + lane;
#pragma GCC unroll 7
        for (int k = 0; k < taps; ++k, weight += tap_stride) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) weights[k][v] = load(weight + v * kLanes<C>);
        }
        // Sums of columns that do not exist are not stored.
        for_each_meeting<taps, step, true>(
            line.source + from * lines.column_stride + lane, lines.column_stride, -from, end, kTile,
            [&](int j, int k, int v, const Vec<C>& value) { sums[j][v] += weights[k][v] * value; });
      }
      if (target.bounds.any) {
#pragma GCC unroll 8
        for (int j = 0; j < kTile; ++j) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sums[j][v] = target.bounds.of<C>(sums[j][v]);
        }
      }
      target.store_tile<kTile, kVectors>(column, segment.step, count, lane, sums);
    }
  }
}

// The same for any taps, column by column.
template <class C>
void gather_segment_slowly(const Lines<C>& lines, const AxisSegment& segment, int64_t width, const C* start,
                           const TargetRow<C>& target) {
  for (int64_t j = 0; j < segment.count; ++j) {
    for (int64_t lane = 0; lane < width; lane += kLanes<C>) {
      Vec<C> sum[1][1] = {{load(start + lane)}};
      for (const Line<C>& line : lines.each) {
        for (const AxisTap& tap : segment.taps) {
          const int64_t source = tap.source + j * segment.source_step;
          if (source < 0 || source >= lines.columns) continue;
          sum[0][0] += load(line.taps + tap.tap * width + lane) *
                       load(line.source + source * lines.column_stride + lane);
        }
      }
      if (target.bounds.any) sum[0][0] = target.bounds.template of<C>(sum[0][0]);
      target.template store_tile<1, 1>(segment.first + j * segment.step, 1, 1, lane, sum);
    }
  }
}

inline void gather_segment(const Lines<float>& lines, const AxisSegment& segment, int64_t width,
                           const float* start, const AheadRows& ahead, const TargetRow<float>& target) {
  if (!Columns::fit(segment)) return gather_segment_slowly(lines, segment, width, start, target);
  const Columns columns(segment);
  with_shape(columns, [&](auto taps, auto step) {
    gather_columns<taps, step>(lines, columns, width, start, ahead, target);
  });
}
inline void gather_segment(const Lines<double>& lines, const AxisSegment& segment, int64_t width,
                           const double* start, const AheadRows&, const TargetRow<double>& target) {
  gather_segment_slowly(lines, segment, width, start, target);
}

// A row of the output's gradient.
template <class C>
struct GradientRow {
  const C* first;
  int64_t column_stride;
};

// The part of `gradient_columns` that the tile of columns from `first` on makes; `whole`: all of them exist.
template <int taps, int step, bool whole>
void gradient_tile(const Lines<float>& lines, const Columns& columns, int64_t width,
                   const GradientRow<float>& grad, int64_t first, const AheadRows& ahead_input,
                   const AheadRows& ahead_grad) {
  using C = float;
  const int64_t tap_stride = columns.tap_step * width;
  const int64_t from = columns.first_source + first * step;
  const int64_t count = std::min<int64_t>(kTile, columns.segment->count - first);
  const int64_t end = std::min(lines.columns - from, (count - 1) * step + taps);
  for (int64_t lane = 0; lane < width; lane += kBlock<C>) {
    ahead_input.ask<kTile * step>(first * step, lane);
    ahead_grad.ask<kTile>(first, lane);
    Vec<C> grads[kTile][kVectors];
    const C* at = grad.first + first * grad.column_stride + lane;
#pragma GCC unroll 8
    for (int j = 0; j < kTile; ++j, at += grad.column_stride) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        grads[j][v] = whole || j < count ? load(at + v * kLanes<C>) : Vec<C>{};
      }
    }
    for (const Line<C>& line : lines.each) {
      C* const first_sum = line.taps + columns.first_tap * width + lane;
      Vec<C> sums[taps][kVectors];
      const C* sum = first_sum;
#pragma GCC unroll 7
      for (int k = 0; k < taps; ++k, sum += tap_stride) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[k][v] = load(sum + v * kLanes<C>);
      }
      for_each_meeting<taps, step, whole>(
          line.source + from * lines.column_stride + lane, lines.column_stride, -from, end, count,
          [&](int j, int k, int v, const Vec<C>& value) { sums[k][v] += grads[j][v] * value; });
      C* to = first_sum;
#pragma GCC unroll 7
      for (int k = 0; k < taps; ++k, to += tap_stride) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) store(to + v * kLanes<C>, sums[k][v]);
      }
    }
  }
}

// sums[k] += sum over columns of grad * input at column tap k, for every line
template <int taps, int step>
void gradient_columns(const Lines<float>& lines, const Columns& columns, int64_t width,
                      const GradientRow<float>& grad, const AheadRows& ahead_input,
                      const AheadRows& ahead_grad) {
  for (int64_t first = 0; first < columns.segment->count; first += kTile) {
    // A column that does not exist must meet nothing: its gradient of zero would make NaN of an infinity.
    if (first + kTile <= columns.segment->count) {
      gradient_tile<taps, step, true>(lines, columns, width, grad, first, ahead_input, ahead_grad);
    } else {
      gradient_tile<taps, step, false>(lines, columns, width, grad, first, ahead_input, ahead_grad);
    }
  }
}

// The same for any taps, tap by tap.
template <class C>
void gradient_segment_slowly(const Lines<C>& lines, const AxisSegment& segment, int64_t width,
                             const GradientRow<C>& grad) {
  for (const Line<C>& line : lines.each) {
    for (const AxisTap& tap : segment.taps) {
      C* sums = line.taps + tap.tap * width;
      for (int64_t lane = 0; lane < width; lane += kLanes<C>) {
        Vec<C> sum = load(sums + lane);
        for (int64_t j = 0; j < segment.count; ++j) {
          const int64_t source = tap.source + j * segment.source_step;
          if (source < 0 || source >= lines.columns) continue;
          sum += load(grad.first + j * grad.column_stride + lane) *
                 load(line.source + source * lines.column_stride + lane);
        }
        store(sums + lane, sum);
      }
    }
  }
}

inline void gradient_segment(const Lines<float>& lines, const AxisSegment& segment, int64_t width,
                             const GradientRow<float>& grad, const AheadRows& ahead_input,
                             const AheadRows& ahead_grad) {
  if (!Columns::fit(segment)) return gradient_segment_slowly(lines, segment, width, grad);
  const Columns columns(segment);
  with_shape(columns, [&](auto taps, auto step) {
    // Kernels of even width, or one, are too rare to compile a loop for.
    if constexpr (taps > 1 && taps % 2 == 1) {
      gradient_columns<taps, step>(lines, columns, width, grad, ahead_input, ahead_grad);
    } else {
      gradient_segment_slowly(lines, segment, width, grad);
    }
  });
}
inline void gradient_segment(const Lines<double>& lines, const AxisSegment& segment, int64_t width,
                             const GradientRow<double>& grad, const AheadRows&, const AheadRows&) {
  gradient_segment_slowly(lines, segment, width, grad);
}

}  // namespace kshot::cpu::KSHOT_ISA
