// Rows of a channels_last tensor as depthwise kernels read them.
//
// Tensors of the sum type are read where they lie. Half types, and channels that do not fill whole blocks of
// vectors, are widened first into a ring of as many rows as the taps of one target row span:
//
//     ring   [ source row y     ]
//            [ source row y + 1 ]
//            [ source row y - 1 ]   replaced by row y + 2
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/aligned_buffer.h"
#include "common/pixels.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {

constexpr int kVectors = 2;
template <class C>
constexpr int64_t kBlock = kVectors * kLanes<C>;  // channels of a tile

// A range of channels, widened to whole blocks of the sum type; lanes beyond the last channel are zero.
template <class T>
struct ChannelRange {
  using C = Sum<T>;
  int64_t begin, count, width;
  int64_t repeated;  // so many of the first channels belong to the range before this one, too

  ChannelRange(int64_t begin, int64_t end, int64_t repeated = 0)
      : begin(begin),
        count(end - begin),
        width((count + kBlock<C> - 1) / kBlock<C> * kBlock<C>),
        repeated(repeated) {}

  // Whether the kernels can read rows of T as they are.
  bool in_place() const { return std::is_same_v<T, C> && count == width; }

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

// Calls body(range) for ranges of whole blocks of channels, and one for the rest.
//
// A range is as wide as the rows of `positions` that it reads again and again fit the second cache: memory is
// then read and written in long stretches. Where rows are read in place, the rest is brought to a whole block
// by channels before it.
template <class T, class Body>
void for_each_range(int64_t begin, int64_t end, int64_t positions, const Body& body) {
  constexpr int64_t kBytes = 512 << 10, block = kBlock<Sum<T>>;
  const int64_t fit = kBytes / (positions * static_cast<int64_t>(sizeof(Sum<T>)));
  const int64_t most = std::max(2 * block, fit / block * block);
  const int64_t whole = begin + (end - begin) / block * block;
  for (int64_t c = begin; c < whole; c += most) body(ChannelRange<T>(c, std::min(c + most, whole)));
  if (whole == end) return;
  const bool overlap = std::is_same_v<T, Sum<T>> && end - begin >= block;
  const int64_t first = overlap ? end - block : whole;
  body(ChannelRange<T>(first, end, whole - first));
}

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

// The rows of one sample, over a range of channels.
template <class T>
class SourceRows {
 public:
  using C = Sum<T>;

  // `rows`: how many are in use at a time.
  SourceRows(const Pixels<void>& pixels, int64_t columns, const ChannelRange<T>& range, int64_t rows)
      : first_(static_cast<const T*>(pixels.data) + range.begin),
        columns_(columns),
        stride_(pixels.stride),
        range_(range) {
    if (range.in_place()) return;
    held_.assign(static_cast<size_t>(rows), -1);
    ring_ = AlignedBuffer<C>(rows * columns * range.width);
    // Lanes beyond the last channel stay zero: what lay there, subnormal say, would slow down the arithmetic.
    std::fill(ring_.data(), ring_.data() + rows * columns * range.width, C(0));
  }

  // Elements from column to column of a row.
  int64_t column_stride() const { return range_.in_place() ? stride_ : range_.width; }

  // `pixel`: the first one of a sample.
  void start(int64_t pixel) {
    source_ = first_ + pixel * stride_;
    std::fill(held_.begin(), held_.end(), -1);
  }

  // Where to find the `count` rows from row y on in memory, to ask for them ahead of time.
  AheadRows ahead(int64_t y, int64_t count) const {
    const int64_t column = stride_ * static_cast<int64_t>(sizeof(T)), row = columns_ * column;
    return {reinterpret_cast<const char*>(source_) + y * row, row, column, sizeof(T), count};
  }

  // Column 0 of row y.
  const C* row(int64_t y) {
    const T* from = source_ + y * columns_ * stride_;
    if constexpr (std::is_same_v<T, C>) {
      if (range_.in_place()) return from;
    }
    const size_t slot = static_cast<size_t>(y) % held_.size();
    C* line = ring_.data() + static_cast<int64_t>(slot) * columns_ * range_.width;
    if (held_[slot] != y) {
      held_[slot] = y;
      for (int64_t x = 0; x < columns_; ++x) range_.widen(line + x * range_.width, from + x * stride_);
    }
    return line;
  }

 private:
  const T* first_;
  int64_t columns_, stride_;
  const ChannelRange<T>& range_;
  const T* source_ = nullptr;
  std::vector<int64_t> held_;
  AlignedBuffer<C> ring_;
};

}  // namespace kshot::cpu::KSHOT_ISA
