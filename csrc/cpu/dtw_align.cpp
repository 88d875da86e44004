// Alignment by dynamic time warping, and its gradient:
//
//     cost[i, j] = distance(p[i], t[j]) + min(cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1])
//
// within the band (common/dtw_align.h). Cells of an anti-diagonal are the lanes: a vector holds those of
// kLanes neighbours i, from a multiple of kLanes on, and all three sources lie in the vectors at the same
// place, or one lane before it, of the two anti-diagonals before. So a pair by itself fills vectors. Of every
// cell two bits stay, which tell where its path comes from; they are followed from the last cell to the
// first.
//
// A thread owns pairs. Costs of three anti-diagonals and the bits stay in the caches; from memory come the
// points, and the path goes there. A cell takes 3 + 3 channels operations for its distance, and 2
// comparisons, 2 selections and an addition; anti-diagonals wait for one another, which narrow bands feel.
#include "cpu/dtw_align.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/aligned_buffer.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

template <class C>
constexpr C kInfinity = std::numeric_limits<C>::infinity();
template <class C>
using Integer = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;

// The vector that begins one element before `p`, which is aligned. Where two loads and a shift of lanes are
// to be had, they are used: a load across two vectors just stored waits for both to reach the cache.
template <class C>
inline Vec<C> one_before(const C* p) {
#if defined(__AVX512F__)
  const auto before = reinterpret_cast<__m512i>(load(p - kLanes<C>)), at = reinterpret_cast<__m512i>(load(p));
  if constexpr (sizeof(C) == 4) {
    return reinterpret_cast<Vec<C>>(_mm512_maskz_alignr_epi32(0xffff, at, before, 15));
  } else {
    return reinterpret_cast<Vec<C>>(_mm512_maskz_alignr_epi64(0xff, at, before, 7));
  }
#elif defined(__AVX2__)
  const auto before = reinterpret_cast<__m256i>(load(p - kLanes<C>)), at = reinterpret_cast<__m256i>(load(p));
  const __m256i middle = _mm256_permute2x128_si256(before, at, 0x21);
  return reinterpret_cast<Vec<C>>(_mm256_alignr_epi8(at, middle, 16 - sizeof(C)));
#else
  return load(p - 1);
#endif
}

// Replaces the lanes of `least` that are greater than those of `other`; returns which, as bits.
template <class C>
inline uint32_t take_lesser(Vec<C>& least, Vec<C> other) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    const auto a = reinterpret_cast<__m512>(least), b = reinterpret_cast<__m512>(other);
    const __mmask16 lesser = _mm512_cmp_ps_mask(b, a, _CMP_LT_OQ);
    least = reinterpret_cast<Vec<C>>(_mm512_mask_mov_ps(a, lesser, b));
    return lesser;
  } else {
    const auto a = reinterpret_cast<__m512d>(least), b = reinterpret_cast<__m512d>(other);
    const __mmask8 lesser = _mm512_cmp_pd_mask(b, a, _CMP_LT_OQ);
    least = reinterpret_cast<Vec<C>>(_mm512_mask_mov_pd(a, lesser, b));
    return lesser;
  }
#else
  const auto lesser = other < least;
  least = lesser ? other : least;
#if defined(__AVX__)
  if constexpr (sizeof(C) == 4) {
    return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(lesser)));
  } else {
    return static_cast<uint32_t>(_mm256_movemask_pd(reinterpret_cast<__m256d>(lesser)));
  }
#else
  Integer<C> lanes[kLanes<C>];
  std::memcpy(lanes, &lesser, sizeof lanes);
  uint32_t bits = 0;
  for (int64_t lane = 0; lane < kLanes<C>; ++lane) bits |= (lanes[lane] ? 1u : 0u) << lane;
  return bits;
#endif
#endif
}

template <class C>
inline Vec<C> absolute(Vec<C> v) {
  using Bits = decltype(v < v);  // signed integers
  return reinterpret_cast<Vec<C>>(reinterpret_cast<Bits>(v) & std::numeric_limits<Integer<C>>::max());
}

// The points of one pair in the order of the kernel: coordinate by coordinate, the second sequence from its
// end, so that the cells of an anti-diagonal meet neighbours of both. Around them are zeros for idle lanes.
template <class C>
class Points {
 public:
  static constexpr int64_t kMargin = 2 * kLanes<C>;

  Points(int64_t most, int64_t channels)
      : stride_((most + 2 * kMargin + kLanes<C> - 1) / kLanes<C> * kLanes<C>), values_(stride_ * channels) {}

  // Numbers that are not finite become `infinity`, whose sign differs between the two sequences: then every
  // distance to such a point is infinite and none is NaN.
  void take(const C* points, int64_t count, int64_t channels, bool reversed, C infinity) {
    for (int64_t c = 0; c < channels; ++c) {
      C* to = values_.data() + c * stride_;
      std::fill(to, to + kMargin, C(0));
      to += kMargin;
      const C* from = points + c;
      for (int64_t i = 0; i < count; ++i) {
        const C value = from[(reversed ? count - 1 - i : i) * channels];
        to[i] = std::isfinite(value) ? value : infinity;
      }
      std::fill(to + count, to + count + kMargin, C(0));
    }
  }

  // Coordinate c of points i to i + kLanes.
  Vec<C> at(int64_t c, int64_t i) const { return load(values_.data() + c * stride_ + kMargin + i); }

 private:
  int64_t stride_;
  AlignedBuffer<C> values_;
};

template <class C, bool euclidean>
class Aligner {
  static constexpr int64_t kVector = kLanes<C>;
  using Mask = std::conditional_t<(kVector > 8), uint16_t, uint8_t>;
  struct Sources {  // of the cells of a vector: a bit where the path comes from there
    Mask upper, left;
  };

 public:
  explicit Aligner(const DtwAlign& args)
      : args_(args),
        predictions_(args.rows, args.channels),
        targets_(args.columns, args.channels),
        cost_size_((args.rows + kVector - 1) / kVector * kVector + 2 * kVector),
        costs_(3 * cost_size_),
        offsets_(static_cast<size_t>(args.path_size())) {}

  void align(int64_t pair) {
    rows_ = args_.prediction_lengths ? args_.prediction_lengths[pair] : args_.rows;
    columns_ = args_.target_lengths ? args_.target_lengths[pair] : args_.columns;
    const C* p = static_cast<const C*>(args_.predictions) + pair * args_.rows * args_.channels;
    const C* t = static_cast<const C*>(args_.targets) + pair * args_.columns * args_.channels;
    predictions_.take(p, rows_, args_.channels, false, kInfinity<C>);
    targets_.take(t, columns_, args_.channels, true, -kInfinity<C>);
    C cost;
    switch (args_.channels) {
      case 1:
        cost = find_costs(std::integral_constant<int64_t, 1>{});
        break;
      case 2:
        cost = find_costs(std::integral_constant<int64_t, 2>{});
        break;
      case 3:
        cost = find_costs(std::integral_constant<int64_t, 3>{});
        break;
      default:
        cost = find_costs(args_.channels);
    }
    int64_t* path = args_.path + pair * args_.path_size() * 2;
    const int64_t steps = std::isfinite(cost) ? follow<false>(path) : follow<true>(path);
    if (!std::isfinite(cost)) {  // what numbers that are not finite really add up to
      cost = 0;
      for (int64_t s = 0; s < steps; ++s) {
        cost += distance(p + path[2 * s] * args_.channels, t + path[2 * s + 1] * args_.channels);
      }
    }
    static_cast<C*>(args_.cost)[pair] = cost;
  }

 private:
  // The cost of the whole pair; leaves the sources of all cells.
  template <class Channels>
  C find_costs(Channels channels) {
    // Before each anti-diagonal lie two vectors of cells i < 0. What was never written is infinite.
    std::fill(costs_.data(), costs_.data() + 3 * cost_size_, kInfinity<C>);
    C* current = costs_.data() + 2 * kVector;
    C *last = current + cost_size_, *before_last = last + cost_size_;
    before_last[-1] = 0;    // from here the path comes to its first cell
    C bounds[4 * kVector];  // infinite outside of the middle
    std::fill(bounds, bounds + 4 * kVector, kInfinity<C>);
    std::fill(bounds + 2 * kVector, bounds + 3 * kVector, C(0));

    BandWalk walk(rows_, columns_, args_.band);
    // An anti-diagonal covers the cell before its first as well, which others may ask for.
    sources_per_diagonal_ = (walk.most_cells() + 1) / kVector + 2;
    const int64_t diagonals = walk.diagonals(), needed = diagonals * sources_per_diagonal_;
    if (needed > static_cast<int64_t>(sources_.size())) sources_.resize(static_cast<size_t>(needed));
    Sources* sources = sources_.data();
    for (int64_t k = 0;; ++k) {
      const int64_t first = walk.first(), end = walk.last();
      const int64_t first_vector = (first - 1 + kVector) / kVector - 1;
      offsets_[static_cast<size_t>(k)] = k * sources_per_diagonal_ - first_vector;
      Sources* to = sources;
      for (int64_t i = first_vector * kVector; i <= end; i += kVector, ++to) {
        Vec<C> sum = one_before(before_last + i);
        to->upper = static_cast<Mask>(take_lesser<C>(sum, one_before(last + i)));
        to->left = static_cast<Mask>(take_lesser<C>(sum, load(last + i)));
        sum += distances(channels, i, columns_ - 1 - k + i);
        // Lanes outside of the band.
        if (i < first) sum += load(bounds + 2 * kVector + std::max(i - first, -2 * kVector));
        if (i + kVector - 1 > end) sum += load(bounds + 2 * kVector + (i + kVector - 1 - end));
        store(current + i, sum);
      }
      if (k == diagonals - 1) return current[rows_ - 1];
      sources += sources_per_diagonal_;
      C* next = before_last;
      before_last = last;
      last = current;
      current = next;
      walk.advance();
    }
  }

  // Of cells whose points begin at i and j, the latter counted from the end.
  template <class Channels>
  Vec<C> distances(Channels channels, int64_t i, int64_t j) const {
    const auto part = [&](int64_t c) {
      const Vec<C> difference = predictions_.at(c, i) - targets_.at(c, j);
      return euclidean ? difference * difference : absolute<C>(difference);
    };
    Vec<C> sum = part(0);
    for (int64_t c = 1; c < channels; ++c) sum += part(c);
    return euclidean ? square_root<C>(sum) : sum;
  }

  C distance(const C* p, const C* t) const {
    C sum = 0;
    for (int64_t c = 0; c < args_.channels; ++c) {
      sum += euclidean ? (p[c] - t[c]) * (p[c] - t[c]) : std::abs(p[c] - t[c]);
    }
    return euclidean ? std::sqrt(sum) : sum;
  }

  // Writes the path, whose length it returns. `may_stray`: whether sources may lie outside of the band.
  template <bool may_stray>
  int64_t follow(int64_t* path) const {
    // It is found from its end on, so it is written to the end first.
    const int64_t size = args_.path_size();
    int64_t start = size;
    Cell cell{rows_ - 1, columns_ - 1};
    for (;;) {
      --start;
      path[2 * start] = cell.i;
      path[2 * start + 1] = cell.j;
      if (cell.i + cell.j == 0) break;
      const int64_t vector = cell.i / kVector, lane = cell.i % kVector;
      const Sources sources =
          sources_[static_cast<size_t>(offsets_[static_cast<size_t>(cell.i + cell.j)] + vector)];
      const int upper = sources.upper >> lane & 1, left = sources.left >> lane & 1;
      if constexpr (may_stray) {
        cell = previous_in_band(cell, upper * kFromUpper + left * kFromLeft, rows_, columns_, args_.band);
      } else {  // without branches, which nobody could foresee
        cell.i -= 1 - left;
        cell.j -= left | (1 - upper);
      }
    }
    std::copy(path + 2 * start, path + 2 * size, path);
    std::fill(path + 2 * (size - start), path + 2 * size, int64_t{-1});
    return size - start;
  }

  const DtwAlign& args_;
  Points<C> predictions_, targets_;
  int64_t cost_size_;
  AlignedBuffer<C> costs_;
  std::vector<int64_t> offsets_;  // of each anti-diagonal's vector 0 in the sources
  std::vector<Sources> sources_;
  int64_t rows_ = 0, columns_ = 0, sources_per_diagonal_ = 0;
};

// The derivative of the distance of p and t by each coordinate of p, times g; handed to add(c, derivative).
template <class C, class Add>
inline void each_derivative(const C* p, const C* t, int64_t channels, bool euclidean, C g, const Add& add) {
  if (!euclidean) {
    for (int64_t c = 0; c < channels; ++c) {
      const C difference = p[c] - t[c];
      add(c, g * static_cast<C>((difference > 0) -
                                (difference < 0)));  // a branch would be foreseen half of the time
    }
    return;
  }
  C square = 0;
  for (int64_t c = 0; c < channels; ++c) square += (p[c] - t[c]) * (p[c] - t[c]);
  const C scale = square == 0 ? C(0) : g / std::sqrt(square);
  for (int64_t c = 0; c < channels; ++c) add(c, scale * (p[c] - t[c]));
}

template <class C>
bool add_gradients(const DtwAlignBackward& args, int64_t pair) {
  const DtwAlign& shape = args.forward;
  const int64_t channels = shape.channels, rows = shape.rows * channels, columns = shape.columns * channels;
  const C* p = static_cast<const C*>(shape.predictions) + pair * rows;
  const C* t = static_cast<const C*>(shape.targets) + pair * columns;
  C* grad_p = args.grad_predictions ? static_cast<C*>(args.grad_predictions) + pair * rows : nullptr;
  C* grad_t = args.grad_targets ? static_cast<C*>(args.grad_targets) + pair * columns : nullptr;
  if (grad_p) std::fill(grad_p, grad_p + rows, C(0));
  if (grad_t) std::fill(grad_t, grad_t + columns, C(0));
  const C g = static_cast<const C*>(args.grad)[pair];
  const int64_t* path = shape.path + pair * shape.path_size() * 2;
  for (int64_t s = 0; s < shape.path_size() && path[2 * s] != -1; ++s) {
    const int64_t i = path[2 * s], j = path[2 * s + 1];
    if (i < 0 || i >= shape.rows || j < 0 || j >= shape.columns) return false;
    each_derivative(p + i * channels, t + j * channels, channels, shape.euclidean, g,
                    [&](int64_t c, C value) {
                      if (grad_p) grad_p[i * channels + c] += value;
                      if (grad_t) grad_t[j * channels + c] -= value;
                    });
  }
  return true;
}

// Calls body with a null pointer to the type that `dtype` is.
template <class Body>
void with_type(DType dtype, const Body& body) {
  if (dtype == DType::kFloat64) {
    body(static_cast<double*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

template <class C, bool euclidean>
void align_pairs(const DtwAlign& args, int64_t begin, int64_t end) {
  Aligner<C, euclidean> aligner(args);
  for (int64_t pair = begin; pair < end; ++pair) aligner.align(pair);
}

}  // namespace

void dtw_align(const DtwAlign& args, int64_t begin, int64_t end) {
  with_type(args.dtype, [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    if (args.euclidean) {
      align_pairs<C, true>(args, begin, end);
    } else {
      align_pairs<C, false>(args, begin, end);
    }
  });
}

void dtw_align_backward(const DtwAlignBackward& args, int64_t begin, int64_t end, std::atomic<bool>& astray) {
  with_type(args.forward.dtype, [&](auto* type) {
    for (int64_t pair = begin; pair < end; ++pair) {
      if (!add_gradients<std::remove_pointer_t<decltype(type)>>(args, pair)) astray = true;
    }
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
