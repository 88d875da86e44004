// Average pooling in channels_last, and its gradient:
//
//     target[y, x] = p[y] q[x] sum_h a[h] sum_w b[w] source[h, w]
//
// over the neighbouring rows h and columns w that a target reaches. Forward, targets are outputs, p and q are
// one over a window's height and width, a and b are one. Backward, targets are inputs, the sources are the
// outputs whose windows hold them and bring these factors as a and b, and p and q are one. So both directions
// run the same kernel.
//
// Channels are the lanes. A task owns rows of the target; the few rows of the source that one of them reads
// stay in L1 between its columns, so each tensor crosses the bus once. Bound by memory: a 3x3 window takes
// nine loads from L1 for each vector that comes from farther.
#include "cpu/avg_pool2d.h"

#include <algorithm>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

template <int count>
using Count = std::integral_constant<int, count>;

// Calls body(number of sources) with the numbers of small windows as constants.
template <class Body>
inline void with_count(int64_t count, const Body& body) {
  switch (count) {
    case 1:
      return body(Count<1>{});
    case 2:
      return body(Count<2>{});
    case 3:
      return body(Count<3>{});
    default:
      return body(count);
  }
}

// One row of the target.
template <class T>
class Row {
  using C = Sum<T>;

 public:
  Row(const SeparableSum& args, int64_t row, bool past_caches) : args_(args), past_caches_(past_caches) {
    const WeightedAxis &height = args.height, &width = args.width;
    const int64_t sample = row / height.targets, y = row % height.targets, first = height.first[y];
    rows_ = height.count[y];
    row_factors_ = static_cast<const C*>(height.of_source) + first;
    factor_ = static_cast<const C*>(height.of_target)[y];
    row_stride_ = width.sources * args.source.stride;
    source_ = static_cast<const T*>(args.source.data) + (sample * height.sources + first) * row_stride_;
    target_ = static_cast<T*>(args.target) + row * width.targets * args.channels;
  }

  void make() const {
    with_count(rows_, [&](auto rows) {
      for (int64_t x = 0; x < args_.width.targets; ++x) {
        if (args_.width.count[x] == 3) {
          pixel(x, rows, Count<3>{});
        } else {
          pixel(x, rows, static_cast<int64_t>(args_.width.count[x]));
        }
      }
    });
  }

 private:
  template <class Rows, class Columns>
  void pixel(int64_t x, Rows rows, Columns columns) const {
    const WeightedAxis& width = args_.width;
    const int64_t first = width.first[x], stride = args_.source.stride, channels = args_.channels;
    const C* factors = static_cast<const C*>(width.of_source) + first;
    const C factor = factor_ * static_cast<const C*>(width.of_target)[x];
    const T* from = source_ + first * stride;
    T* to = target_ + x * channels;
    for (int64_t c = 0; c < channels; c += kLanes<C>) {
      with_lanes<C>(std::min(kLanes<C>, channels - c), [&](auto lanes) {
        Vec<C> total = {};
        for (int64_t w = 0; w < columns; ++w)
          total += factors[w] * column(rows, from + w * stride + c, lanes);
        store_lanes(to + c, total * factor, lanes, past_caches_);
      });
    }
  }

  // The sum over the rows of one column.
  template <class Rows, class Lanes>
  Vec<C> column(Rows rows, const T* from, Lanes lanes) const {
    Vec<C> total = {};
    for (int64_t h = 0; h < rows; ++h) total += row_factors_[h] * load_lanes(from + h * row_stride_, lanes);
    return total;
  }

  const SeparableSum& args_;
  int64_t rows_, row_stride_;
  const C* row_factors_;
  C factor_;
  const T* source_;
  T* target_;
  bool past_caches_;
};

template <class T>
void sum_rows(const SeparableSum& args, int64_t begin, int64_t end) {
  const bool past_caches =
      args.past_caches && can_pass_caches(static_cast<const T*>(args.target), args.channels);
  for (int64_t row = begin; row < end; ++row) Row<T>(args, row, past_caches).make();
  if (past_caches) finish_stores();
}

}  // namespace

void separable_sum(const SeparableSum& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.dtype,
                 [&](auto* type) { sum_rows<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

}  // namespace kshot::cpu::KSHOT_ISA
