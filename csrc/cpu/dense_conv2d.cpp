// Dense convolution, channels_last, float32, as a matrix product that gathers its left operand:
//
//     target[g, c] = bias[c] + sum_t sum_r source[g at t, r] * weight[t, r, c]
//
// Forward, targets are outputs; with transposed taps and the weight turned around it is the gradient of the
// input.
//
//                      panel: up to kMostVectors vectors of channels c
//                 r  [ ========= ]      (t, r) runs over taps and source channels; panels stay in L1 or L2
//     rows of   [..] [ sums      ]
//     targets   [..] [ in        ]      up to kMostRows targets: one broadcast of source[g at t, r] feeds
//     g at t    [..] [ registers ]      all vectors; a tap outside the image reads a row of zeros
//
// The gradient of the weight has the same shape with positions as the long axis:
//
//     gradient[t, o, i] = sum_p grad[p, o] * input[p at t, i]
//
// with o as rows (broadcast) and i as lanes, or the reverse.
//
// A weight mixed per sample is never stored: its panels are mixed from rows of the K copies (mix_rows), used,
// and overwritten by the next sample's. Bound by arithmetic, rows * vectors multiply-adds for rows +
// vectors loads; with few channels on one side by the traffic of the other side's tensor.
#include "cpu/dense_conv2d.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

constexpr int64_t kVector = kLanes<float>;
// A tile's sums, a row of the panel and a broadcast fill the registers: 24 + 4 + 1 of 32, or 12 + 2 + 1
// of 16.
#if defined(__AVX512F__)
constexpr int kSums = 24, kMostVectors = 4;
#else
constexpr int kSums = 12, kMostVectors = 2;
#endif
constexpr int kMostRows = 12;
constexpr int64_t kLine = 64 / sizeof(float);
using V = Vec<float>;

// Rows of the tiles under panels of so many vectors.
constexpr int rows_of(int vectors) {
  return std::min(kMostRows, kSums / vectors);
}

// Cuts [0, count) into tiles of `rows`, and what is left over into smaller ones, and calls
// body(std::integral_constant<int, rows>, first) for each: few sizes keep the compiled code small.
template <int rows, class Body>
inline void for_each_tile(int64_t count, const Body& body, int64_t first = 0) {
  for (; first + rows <= count; first += rows) body(std::integral_constant<int, rows>{}, first);
  if constexpr (rows > 1) {
    constexpr int smaller = rows > 4 ? 4 : rows / 2;
    if (first < count) for_each_tile<smaller>(count, body, first);
  }
}

// Calls body(std::integral_constant<int, vectors>) with the vectors, up to `most`, that `width` channels
// take.
template <int most = kMostVectors, class Body>
inline void with_vectors(int64_t width, const Body& body) {
  if constexpr (most > 1) {
    if (width <= (most - 1) * kVector) return with_vectors<most - 1>(width, body);
  }
  body(std::integral_constant<int, most>{});
}

// A row of vectors that hold `width` values: the lanes beyond are zero, and not stored.
template <int vectors>
inline void load_row(V (&row)[vectors], const float* from, int64_t width) {
#pragma GCC unroll 4
  for (int v = 0; v + 1 < vectors; ++v) row[v] = load(from + v * kVector);
  const int64_t last = width - (vectors - 1) * kVector;
  from += (vectors - 1) * kVector;
  row[vectors - 1] = last == kVector ? load(from) : load_first(from, last);
}
template <int vectors>
inline void store_row(float* to, const V (&row)[vectors], int64_t width, bool past_caches) {
  const int64_t last = width - (vectors - 1) * kVector;
  if (past_caches && last == kVector) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store_past_caches(to + v * kVector, row[v]);
    return;
  }
#pragma GCC unroll 4
  for (int v = 0; v + 1 < vectors; ++v) store(to + v * kVector, row[v]);
  to += (vectors - 1) * kVector;
  if (last == kVector) {
    store(to, row[vectors - 1]);
  } else {
    store_first(to, row[vectors - 1], last);
  }
}

// Where a block of targets reads and writes, tile by tile; taps that no target of a tile uses are left out.
class Block {
 public:
  explicit Block(const DenseGather& args)
      : args_(args), zeros_(static_cast<size_t>(args.source_channels), 0.0f) {}

  struct Tap {
    int64_t index;
    std::array<const float*, kMostRows> rows;
  };
  struct Tile {
    size_t first_tap, taps;
    std::array<float*, kMostRows> targets;
  };

  // Targets [begin, begin + count) of the flat list, in tiles of `most` rows.
  template <int most>
  void place(int64_t begin, int64_t count) {
    sample_ = begin / args_.plan->places();
    place_ = begin % args_.plan->places();
    taps_.clear();
    tiles_.clear();
    for_each_tile<most>(count, [&](auto rows, int64_t) { add_tile(rows); });
  }

  const Tile& tile(size_t index) const { return tiles_[index]; }

  const Tap* taps(const Tile& tile) const { return taps_.data() + tile.first_tap; }

  // The rows that a tile reads first; the next tile asks for them ahead of time.
  const std::array<const float*, kMostRows>& first_rows(size_t tile) const {
    return taps_[tiles_[tile].first_tap].rows;
  }
  // Whether tile + 1 is worth asking for: sources that several taps read come by themselves.
  bool has_next(size_t tile) const {
    return args_.plan->taps == 1 && tile + 1 < tiles_.size() && tiles_[tile + 1].taps > 0;
  }

 private:
  // The next `rows` targets.
  void add_tile(int rows) {
    const GatherPlan& plan = *args_.plan;
    std::array<const float*, kMostRows> sources;
    std::array<const int32_t*, kMostRows> pixels;
    Tile tile{taps_.size(), 0, {}};
    for (int m = 0; m < rows; ++m) {
      sources[m] = args_.source + sample_ * plan.source_pixels * args_.source_channels;
      pixels[m] = plan.source.data() + place_ * plan.taps;
      tile.targets[m] = args_.target + (sample_ * plan.places() + plan.target[static_cast<size_t>(place_)]) *
                                           args_.target_channels;
      if (++place_ == plan.places()) ++sample_, place_ = 0;
    }
    for (int64_t t = 0; t < plan.taps; ++t) {
      Tap tap{t, {}};
      tap.rows.fill(zeros_.data());
      bool used = false;
      for (int m = 0; m < rows; ++m) {
        const int64_t pixel = pixels[m][t];
        used = used || pixel >= 0;
        if (pixel >= 0) tap.rows[m] = sources[m] + pixel * args_.source_channels;
      }
      if (used) taps_.push_back(tap);
    }
    tile.taps = taps_.size() - tile.first_tap;
    tiles_.push_back(tile);
  }

  const DenseGather& args_;
  std::vector<float> zeros_;
  std::vector<Tap> taps_;
  std::vector<Tile> tiles_;
  int64_t sample_ = 0, place_ = 0;  // of the next target
};

// sums += source rows * panel rows, over one tap; the lines of the rows `ahead` are asked for meanwhile
template <int rows, int vectors>
inline void multiply_tap(V (&sums)[rows][vectors], const std::array<const float*, kMostRows>& sources,
                         const std::array<const float*, kMostRows>& ahead, const float* panel,
                         int64_t panel_width, int64_t depth) {
  const float* source[rows];
  for (int m = 0; m < rows; ++m) source[m] = sources[m];
  for (int64_t from = 0; from < depth; from += kLine) {
    for (int m = 0; m < rows; ++m) __builtin_prefetch(ahead[m] + from, 0, 2);
    const int64_t to = std::min(from + kLine, depth);
    for (int64_t r = from; r < to; ++r, panel += panel_width) {
      V right[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) right[v] = load(panel + v * kVector);
#pragma GCC unroll 12
      for (int m = 0; m < rows; ++m) {
        const V left = splat(source[m][r]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[m][v] += left * right[v];
      }
    }
  }
}

// Channels [channel, channel + width) of the targets of a tile.
struct TileChannels {
  const float* panel;
  int64_t panel_width, depth;
  const float* bias;
  int64_t channel, width;
  bool past_caches;
  bool ask_ahead;  // for the next tile's rows
};

template <int rows, int vectors>
__attribute__((noinline)) void gather_tile(const Block& block, size_t index, const TileChannels& channels) {
  const Block::Tile& tile = block.tile(index);
  V sums[rows][vectors] = {};
  if (channels.bias) {
    V start[vectors];
    load_row(start, channels.bias + channels.channel, channels.width);
#pragma GCC unroll 12
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[m][v] = start[v];
    }
  }
  const Block::Tap* taps = block.taps(tile);
  for (size_t t = 0; t < tile.taps; ++t) {
    const float* rows_of_tap = channels.panel + taps[t].index * channels.depth * channels.panel_width;
    const auto& ahead = channels.ask_ahead ? block.first_rows(index + 1) : taps[t].rows;
    multiply_tap<rows, vectors>(sums, taps[t].rows, ahead, rows_of_tap, channels.panel_width, channels.depth);
  }
#pragma GCC unroll 12
  for (int m = 0; m < rows; ++m) {
    store_row(tile.targets[m] + channels.channel, sums[m], channels.width, channels.past_caches);
  }
}

// Brings memory to L2 a little at every step.
class Prefetcher {
 public:
  explicit Prefetcher(int64_t steps) : steps_(steps) {}

  void add(const float* data, int64_t size) {
    data_[count_] = data;
    lines_[count_] = (size + kLine - 1) / kLine;
    ++count_;
  }
  void step() {
    for (int i = 0; i < count_; ++i) {
      const int64_t from = step_ * lines_[i] / steps_,
                    to = std::min((step_ + 1) * lines_[i] / steps_, lines_[i]);
      for (int64_t line = from; line < to; ++line) __builtin_prefetch(data_[i] + line * kLine, 0, 2);
    }
    ++step_;
  }

 private:
  int64_t steps_, step_ = 0;
  int count_ = 0;
  std::array<const float*, 2> data_;
  std::array<int64_t, 2> lines_;
};

// gradient rows [row, row + rows) of one tap += sum over the positions of `row_values` and `lanes`
template <int rows, int vectors>
__attribute__((noinline)) void gradient_tile(const std::vector<const float*>& row_values, const float* lanes,
                                             int64_t row, float* gradient, int64_t panel_width) {
  V sums[rows][vectors] = {};
  for (const float* values : row_values) {
    V right[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) right[v] = load(lanes + v * kVector);
    lanes += vectors * kVector;
#pragma GCC unroll 12
    for (int m = 0; m < rows; ++m) {
      const V left = splat(values[row + m]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[m][v] += left * right[v];
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < rows; ++m) {
    float* target = gradient + (row + m) * panel_width;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(target + v * kVector, load(target + v * kVector) + sums[m][v]);
  }
}

template <int panel_vectors>
void gather_range(const DenseGather& args, const PanelRange<const float*>& panels, const float* bias,
                  int64_t begin, int64_t end) {
  constexpr int kRows = rows_of(panel_vectors);
  // Panel by panel over few targets at a time: the sources of all of them stay in L1 or L2, and a panel that
  // is not too deep stays in L1 from tile to tile.
  constexpr int64_t kTargets = 48;
  const bool past_caches = args.past_caches && can_pass_caches(args.target, args.target_channels);
  Block block(args);
  for (; begin < end; begin += kTargets) {
    const int64_t count = std::min(kTargets, end - begin);
    block.place<kRows>(begin, count);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      size_t tile = 0;
      const int64_t channel = p * panels.width,
                    width = std::min(panels.width, args.target_channels - channel);
      with_vectors<panel_vectors>(width, [&](auto vectors) {
        for_each_tile<kRows>(count, [&](auto rows, int64_t) {
          const TileChannels channels{
              panels.of(p), panels.width, args.source_channels, bias,
              channel,      width,        past_caches,          p == panels.begin && block.has_next(tile)};
          gather_tile<decltype(rows)::value, decltype(vectors)::value>(block, tile, channels);
          ++tile;
        });
      });
    }
  }
  if (past_caches) finish_stores();
}

template <int panel_vectors>
void weight_gradient_range(const DenseWeightGradient& args, const PanelRange<float*>& gradient, int64_t begin,
                           int64_t end) {
  constexpr int kRows = rows_of(panel_vectors);
  // A chunk of rows, kPositions by kChannels, stays in L2 while the panels go by.
  constexpr int64_t kPositions = 128, kChannels = 384;
  const GatherPlan& plan = *args.plan;
  const int64_t lane_channels = args.by_output ? args.out_channels : args.in_channels;
  const int64_t row_channels = args.row_end - args.row_begin;
  const auto input_row = [&](int64_t g, int64_t t) -> const float* {
    const int64_t sample = g / plan.places(), place = g % plan.places();
    const int64_t pixel = plan.source[static_cast<size_t>(place * plan.taps + t)];
    return pixel < 0 ? nullptr : args.input + (sample * plan.source_pixels + pixel) * args.in_channels;
  };
  std::vector<const float*> lane_values, row_values;  // of the positions where input and gradient meet
  alignas(64) float lanes[kPositions * kMostVectors * kVector];
  for (; begin < end; begin += kPositions) {
    const int64_t stop = std::min(begin + kPositions, end);
    // The rows of the next chunk are brought to L2 while this one is worked on.
    Prefetcher prefetcher(plan.taps * gradient.size() * ((row_channels + kRows - 1) / kRows));
    if (stop < end) {
      const int64_t next = std::min(stop + kPositions, end);
      prefetcher.add(args.grad + stop * args.out_channels, (next - stop) * args.out_channels);
      const float *first = input_row(stop, 0), *last = input_row(next - 1, 0);
      if (plan.taps == 1 && first && last) prefetcher.add(first, last + args.in_channels - first);
    }
    for (int64_t t = 0; t < plan.taps; ++t) {
      lane_values.clear();
      row_values.clear();
      for (int64_t g = begin; g < stop; ++g) {
        const float *input = input_row(g, t), *grad = args.grad + g * args.out_channels;
        if (!input) continue;
        lane_values.push_back(args.by_output ? grad : input);
        row_values.push_back((args.by_output ? input : grad) + args.row_begin);
      }
      for (int64_t first_row = 0; first_row < row_channels; first_row += kChannels) {
        const int64_t rows_of_block = std::min(kChannels, row_channels - first_row);
        for (int64_t p = gradient.begin; p < gradient.end; ++p) {
          float* tap = gradient.of(p) + t * row_channels * gradient.width;
          const int64_t channel = p * gradient.width,
                        width = std::min(gradient.width, lane_channels - channel);
          with_vectors<panel_vectors>(width, [&](auto vectors) {
            // One after the other in memory: rows of some lengths share few sets of the caches.
            float* to = lanes;
            for (const float* values : lane_values) {
              V row[decltype(vectors)::value];
              load_row(row, values + channel, width);
#pragma GCC unroll 4
              for (const V& vector : row) store(to, vector), to += kVector;
            }
            for_each_tile<kRows>(rows_of_block, [&](auto rows, int64_t row) {
              prefetcher.step();
              gradient_tile<decltype(rows)::value, decltype(vectors)::value>(
                  row_values, lanes, first_row + row, tap, gradient.width);
            });
          });
        }
      }
    }
  }
}

// to[i * to_stride + j] = from[j * from_stride + i] for i < rows, j < columns
void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
               int64_t to_stride) {
  int64_t i = 0;
#if defined(__AVX__)
  for (; i + 4 <= rows; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      const float* block = from + j * from_stride + i;
      __m128 a = _mm_loadu_ps(block), b = _mm_loadu_ps(block + from_stride),
             c = _mm_loadu_ps(block + 2 * from_stride), d = _mm_loadu_ps(block + 3 * from_stride);
      _MM_TRANSPOSE4_PS(a, b, c, d);
      float* target = to + i * to_stride + j;
      _mm_storeu_ps(target, a);
      _mm_storeu_ps(target + to_stride, b);
      _mm_storeu_ps(target + 2 * to_stride, c);
      _mm_storeu_ps(target + 3 * to_stride, d);
    }
    for (; j < columns; ++j) {
      for (int64_t k = i; k < i + 4; ++k) to[k * to_stride + j] = from[j * from_stride + k];
    }
  }
#endif
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[i * to_stride + j] = from[j * from_stride + i];
  }
}

}  // namespace

void choose_panel_width(int64_t channels, int64_t& width) {
  const int64_t vectors = (channels + kVector - 1) / kVector;
  const int64_t panels = (vectors + kMostVectors - 1) / kMostVectors;
  width = (vectors + panels - 1) / panels * kVector;
}

void pack_by_output(const WeightView& weight, int64_t panel, int64_t panel_width, float* packed) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.out_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    const float* tap = weight.data + first * weight.out_stride + t * weight.tap_stride;
    float* rows = packed + t * weight.in_channels * panel_width;
    if (width < panel_width) std::fill(rows, rows + weight.in_channels * panel_width, 0.0f);
    if (weight.in_stride == 1) {
      transpose(tap, weight.out_stride, weight.in_channels, width, rows, panel_width);
      continue;
    }
    for (int64_t i = 0; i < weight.in_channels; ++i) {
      for (int64_t lane = 0; lane < width; ++lane) {
        rows[i * panel_width + lane] = tap[lane * weight.out_stride + i * weight.in_stride];
      }
    }
  }
}

void pack_by_input(const WeightView& weight, int64_t panel, int64_t panel_width, float* packed) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.in_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    for (int64_t o = 0; o < weight.out_channels; ++o, packed += panel_width) {
      const float* from =
          weight.data + o * weight.out_stride + first * weight.in_stride + t * weight.tap_stride;
      if (weight.in_stride == 1) {
        std::copy(from, from + width, packed);
      } else {
        for (int64_t lane = 0; lane < width; ++lane) packed[lane] = from[lane * weight.in_stride];
      }
      std::fill(packed + width, packed + panel_width, 0.0f);
    }
  }
}

void unpack_by_output(const WeightView& weight, int64_t panel, int64_t panel_width, const float* packed,
                      float* unpacked) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.out_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    const float* rows = packed + t * weight.in_channels * panel_width;
    float* tap = unpacked + first * weight.out_stride + t * weight.tap_stride;
    if (weight.in_stride == 1) {
      transpose(rows, panel_width, width, weight.in_channels, tap, weight.out_stride);
      continue;
    }
    for (int64_t i = 0; i < weight.in_channels; ++i) {
      for (int64_t lane = 0; lane < width; ++lane) {
        tap[lane * weight.out_stride + i * weight.in_stride] = rows[i * panel_width + lane];
      }
    }
  }
}

void unpack_by_input(const WeightView& weight, int64_t panel, int64_t panel_width, const float* packed,
                     float* unpacked) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.in_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    for (int64_t o = 0; o < weight.out_channels; ++o, packed += panel_width) {
      float* to = unpacked + o * weight.out_stride + first * weight.in_stride + t * weight.tap_stride;
      if (weight.in_stride == 1) {
        std::copy(packed, packed + width, to);
      } else {
        for (int64_t lane = 0; lane < width; ++lane) to[lane * weight.in_stride] = packed[lane];
      }
    }
  }
}

namespace {

// Calls body(row, channel, lanes) for each vector of a row of `width` channels, in all rows.
template <class Body>
inline void for_each_vector(int64_t rows, int64_t width, const Body& body) {
  for (int64_t r = 0; r < rows; ++r) {
    int64_t c = 0;
    for (; c + kVector <= width; c += kVector) body(r, c, WholeVector{});
    if (c < width) body(r, c, CutVector{width - c});
  }
}

// `samples` samples at a time, so that the copies are read once for all of them.
template <int samples>
void mix_samples(const CopyRows& copies, const float* code, int64_t panel_width, float* mixed,
                 int64_t mixed_stride) {
  for_each_vector(copies.rows, copies.width, [&](int64_t r, int64_t c, auto lanes) {
    V sums[samples] = {};
    const float* copy = copies.data + r * copies.row_stride + c;
    for (int64_t k = 0; k < copies.shots; ++k, copy += copies.copy_stride) {
      const V value = load_lanes(copy, lanes);
#pragma GCC unroll 4
      for (int n = 0; n < samples; ++n) sums[n] += code[n * copies.shots + k] * value;
    }
#pragma GCC unroll 4
    for (int n = 0; n < samples; ++n) store(mixed + n * mixed_stride + r * panel_width + c, sums[n]);
  });
}

template <int samples>
void contract_samples(const RowsContraction& args, int64_t first) {
  const CopyRows& copies = args.copies;
  const float* gradients = args.gradients + first * args.gradient_stride;
  const float* code = args.code + first * copies.shots;
  for (int64_t k = 0; k < copies.shots; ++k) {
    const float* copy = copies.data + k * copies.copy_stride;
    float* sum = args.sums + k * copies.copy_stride;
    V dots[samples] = {}, shares[samples];
#pragma GCC unroll 4
    for (int n = 0; n < samples; ++n) shares[n] = splat(code[n * copies.shots + k]);
    for_each_vector(copies.rows, copies.width, [&](int64_t r, int64_t c, auto lanes) {
      const int64_t at = r * copies.row_stride + c;
      const V value = load_lanes(copy + at, lanes);
      V total = load_lanes(sum + at, lanes);
#pragma GCC unroll 4
      for (int n = 0; n < samples; ++n) {
        const V gradient = load(gradients + n * args.gradient_stride + r * args.panel_width + c);
        dots[n] += gradient * value;
        total += shares[n] * gradient;
      }
      store_lanes(sum + at, total, lanes);
    });
    for (int n = 0; n < samples; ++n)
      args.dots[(first + n) * copies.shots + k] += sum_of_lanes<float>(dots[n]);
  }
}

}  // namespace

void mix_rows(const CopyRows& copies, const float* code, int64_t samples, int64_t panel_width, float* mixed,
              int64_t mixed_stride) {
  const int64_t filled = (copies.width + kVector - 1) / kVector * kVector;
  for (int64_t n = 0; n < samples && filled < panel_width; ++n) {
    for (int64_t r = 0; r < copies.rows; ++r) {
      float* row = mixed + n * mixed_stride + r * panel_width;
      std::fill(row + filled, row + panel_width, 0.0f);
    }
  }
  int64_t n = 0;
  for (; n + 4 <= samples; n += 4) {
    mix_samples<4>(copies, code + n * copies.shots, panel_width, mixed + n * mixed_stride, mixed_stride);
  }
  for (; n < samples; ++n) {
    mix_samples<1>(copies, code + n * copies.shots, panel_width, mixed + n * mixed_stride, mixed_stride);
  }
}

void contract_rows(const RowsContraction& args) {
  int64_t n = 0;
  for (; n + 4 <= args.samples; n += 4) contract_samples<4>(args, n);
  for (; n < args.samples; ++n) contract_samples<1>(args, n);
}

void add_panels(float* into, const float* from, int64_t size) {
  for (int64_t e = 0; e < size; e += kVector) store(into + e, load(into + e) + load(from + e));
}

void dense_gather(const DenseGather& args, const PanelRange<const float*>& panels, const float* bias,
                  int64_t begin, int64_t end) {
  with_vectors(panels.width,
               [&](auto vectors) { gather_range<decltype(vectors)::value>(args, panels, bias, begin, end); });
}

void dense_weight_gradient(const DenseWeightGradient& args, const PanelRange<float*>& gradient, int64_t begin,
                           int64_t end) {
  with_vectors(gradient.width, [&](auto vectors) {
    weight_gradient_range<decltype(vectors)::value>(args, gradient, begin, end);
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
