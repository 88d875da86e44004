// Dense convolution, channels_last, float32, as a matrix product that gathers its left operand:
//
//     target[g, c] = bias[c] + sum_t sum_r source[g at t, r] * weight[t, r, c]
//
// Forward, targets are outputs; with transposed taps and the weight turned around it is the gradient of the
// input.
//
//                      panel: kWidth channels c = 2 vectors
//                 r  [ ========= ]      (t, r) runs over taps and source channels; panels stay in L1 or L2
//     rows of   [..] [ sums      ]
//     targets   [..] [ in        ]      up to kRows targets: one broadcast of source[g at t, r] feeds two
//     g at t    [..] [ registers ]      multiply-adds; a tap outside the image reads a row of zeros
//
// The gradient of the weight has the same shape with positions as the long axis:
//
//     gradient[t, o, i] = sum_p grad[p, o] * input[p at t, i]       rows: o (broadcast), lanes: i
//
// A weight mixed per sample is never stored: its panel is mixed from the packed panels of the K copies
// (mix_panel), used, and overwritten by the next sample's. Bound by arithmetic: 2 * kRows multiply-adds per
// kRows + 2 loads.
#include "cpu/dense_conv2d.h"

#include <algorithm>
#include <array>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

constexpr int64_t kVector = kLanes<float>;
constexpr int64_t kWidth = 2 * kVector;
#if defined(__AVX512F__)
constexpr int kRows = 12;  // 24 sums, 2 of the panel, 1 broadcast: 27 of 32 registers
#else
constexpr int kRows = 6;  // 12 sums, 2 of the panel, 1 broadcast: 15 of 16 registers
#endif
using V = Vec<float>;

// Calls body(std::integral_constant<int, rows>) for 1 <= rows <= kRows.
template <int most = kRows, class Body>
inline void with_rows(int64_t rows, const Body& body) {
  if constexpr (most > 1) {
    if (rows < most) return with_rows<most - 1>(rows, body);
  }
  body(std::integral_constant<int, most>{});
}

// Cuts [begin, end) into nearly equal pieces of at most kRows.
template <class Body>
inline void for_each_tile(int64_t begin, int64_t end, const Body& body) {
  const int64_t tiles = (end - begin + kRows - 1) / kRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t from = begin + tile * (end - begin) / tiles;
    body(from, begin + (tile + 1) * (end - begin) / tiles - from);
  }
}

// Source rows of the targets of one tile, tap by tap; taps that no target uses are left out.
class TileSources {
 public:
  explicit TileSources(const DenseGather& args)
      : args_(args), zeros_(static_cast<size_t>(args.source_channels), 0.0f) {
    taps_.reserve(static_cast<size_t>(args.plan->taps()));
  }

  struct Tap {
    int64_t index;
    std::array<const float*, kRows> rows;
  };

  const std::vector<Tap>& of(int64_t begin, int64_t rows) {
    const GatherPlan& plan = *args_.plan;
    std::array<const float*, kRows> samples;
    std::array<const int64_t*, kRows> row_sources, column_sources;
    for (int64_t m = 0; m < rows; ++m) {
      const int64_t pixel = plan.order[static_cast<size_t>((begin + m) % plan.target_pixels)];
      samples[m] =
          args_.source + (begin + m) / plan.target_pixels * plan.source_pixels * args_.source_channels;
      row_sources[m] = plan.row_source.data() + pixel / plan.target_width * plan.kernel_height;
      column_sources[m] = plan.column_source.data() + pixel % plan.target_width * plan.kernel_width;
    }
    taps_.clear();
    for (int64_t ky = 0; ky < plan.kernel_height; ++ky) {
      for (int64_t kx = 0; kx < plan.kernel_width; ++kx) {
        Tap tap{ky * plan.kernel_width + kx, {}};
        bool used = false;
        for (int64_t m = 0; m < rows; ++m) {
          const int64_t y = row_sources[m][ky], x = column_sources[m][kx];
          const bool inside = y >= 0 && x >= 0;
          used = used || inside;
          tap.rows[m] =
              inside ? samples[m] + (y * plan.source_width + x) * args_.source_channels : zeros_.data();
        }
        if (used) taps_.push_back(tap);
      }
    }
    return taps_;
  }

 private:
  const DenseGather& args_;
  std::vector<float> zeros_;
  std::vector<Tap> taps_;
};

// sums += source rows * panel rows, over one tap
template <int rows>
inline void multiply_tap(V (&sums)[rows][2], const std::array<const float*, kRows>& sources,
                         const float* panel, int64_t depth) {
  const float* source[rows];
  for (int m = 0; m < rows; ++m) source[m] = sources[m];
  for (int64_t r = 0; r < depth; ++r, panel += kWidth) {
    const V left = load(panel), right = load(panel + kVector);
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
      const V a = splat(source[m][r]);
      sums[m][0] += a * left;
      sums[m][1] += a * right;
    }
  }
}

template <int rows>
void gather_tile(const DenseGather& args, const std::vector<TileSources::Tap>& taps, const float* panel,
                 const float* bias, int64_t begin, int64_t channel, int64_t width) {
  V sums[rows][2] = {};
  if (bias) {
    for (int v = 0; v < 2; ++v) {
      const int64_t count = std::clamp<int64_t>(width - v * kVector, 0, kVector);
      const V start = count ? load_first(bias + channel + v * kVector, count) : V{};
      for (int m = 0; m < rows; ++m) sums[m][v] = start;
    }
  }
  for (const TileSources::Tap& tap : taps) {
    multiply_tap<rows>(sums, tap.rows, panel + tap.index * args.source_channels * kWidth,
                       args.source_channels);
  }
  const GatherPlan& plan = *args.plan;
  for (int m = 0; m < rows; ++m) {
    const int64_t sample = (begin + m) / plan.target_pixels;
    const int64_t pixel = plan.order[static_cast<size_t>((begin + m) % plan.target_pixels)];
    float* target = args.target + (sample * plan.target_pixels + pixel) * args.target_channels + channel;
    if (width == kWidth) {
      store(target, sums[m][0]);
      store(target + kVector, sums[m][1]);
    } else {
      store_first(target, sums[m][0], std::min(width, kVector));
      if (width > kVector) store_first(target + kVector, sums[m][1], width - kVector);
    }
  }
}

// Positions of one tap inside the image, as offsets of their rows in input and gradient.
struct Pair {
  const float* input;
  const float* grad;
};

// gradient rows [o, o + rows) of one tap += sum over pairs
template <int rows>
void gradient_tile(const std::vector<Pair>& pairs, int64_t row, int64_t channel, int64_t width,
                   float* gradient) {
  V sums[rows][2] = {};
  const int64_t right_count = width - kVector;
  const auto accumulate = [&](auto whole) {
    for (const Pair& pair : pairs) {
      const float* input = pair.input + channel;
      const float* grad = pair.grad + row;
      const V left = decltype(whole)::value ? load(input) : load_first(input, std::min(width, kVector));
      const V right = decltype(whole)::value ? load(input + kVector)
                      : right_count > 0      ? load_first(input + kVector, right_count)
                                             : V{};
#pragma GCC unroll 16
      for (int m = 0; m < rows; ++m) {
        const V g = splat(grad[m]);
        sums[m][0] += g * left;
        sums[m][1] += g * right;
      }
    }
  };
  if (width == kWidth) {
    accumulate(std::true_type{});
  } else {
    accumulate(std::false_type{});
  }
  for (int m = 0; m < rows; ++m) {
    float* target = gradient + (row + m) * kWidth;
    store(target, load(target) + sums[m][0]);
    store(target + kVector, load(target + kVector) + sums[m][1]);
  }
}

}  // namespace

void get_panel_width(int64_t& width) {
  width = kWidth;
}

void pack_by_output(const WeightView& weight, int64_t panel, float* packed) {
  const int64_t first = panel * kWidth, width = std::min(kWidth, weight.out_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    const float* tap = weight.data + first * weight.out_stride + t * weight.tap_stride;
    float* rows = packed + t * weight.in_channels * kWidth;
    if (width < kWidth) std::fill(rows, rows + weight.in_channels * kWidth, 0.0f);
    constexpr int64_t kBlock = 16;  // input channels at a time, so that the rows written stay in L1
    for (int64_t i = 0; i < weight.in_channels; i += kBlock) {
      const int64_t end = std::min(i + kBlock, weight.in_channels);
      for (int64_t lane = 0; lane < width; ++lane) {
        const float* from = tap + lane * weight.out_stride;
        for (int64_t j = i; j < end; ++j) rows[j * kWidth + lane] = from[j * weight.in_stride];
      }
    }
  }
}

void pack_by_input(const WeightView& weight, int64_t panel, float* packed) {
  const int64_t first = panel * kWidth, width = std::min(kWidth, weight.in_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    for (int64_t o = 0; o < weight.out_channels; ++o, packed += kWidth) {
      const float* from =
          weight.data + o * weight.out_stride + first * weight.in_stride + t * weight.tap_stride;
      for (int64_t lane = 0; lane < width; ++lane) packed[lane] = from[lane * weight.in_stride];
      std::fill(packed + width, packed + kWidth, 0.0f);
    }
  }
}

void unpack_by_input(const WeightView& weight, int64_t panel, const float* packed, float* unpacked) {
  const int64_t first = panel * kWidth, width = std::min(kWidth, weight.in_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    for (int64_t o = 0; o < weight.out_channels; ++o, packed += kWidth) {
      float* to = unpacked + o * weight.out_stride + first * weight.in_stride + t * weight.tap_stride;
      for (int64_t lane = 0; lane < width; ++lane) to[lane * weight.in_stride] = packed[lane];
    }
  }
}

void mix_panel(const float* copies, int64_t stride, const float* code, int64_t shots, int64_t size,
               float* mixed) {
  for (int64_t e = 0; e < size; e += kWidth) {
    V left = {}, right = {};
    for (int64_t k = 0; k < shots; ++k) {
      left += code[k] * load(copies + k * stride + e);
      right += code[k] * load(copies + k * stride + e + kVector);
    }
    store(mixed + e, left);
    store(mixed + e + kVector, right);
  }
}

void contract_panel(const float* panel, const float* copies, int64_t stride, const float* code, int64_t shots,
                    int64_t size, float* dots, float* sums) {
  for (int64_t k = 0; k < shots; ++k) {
    const float* copy = copies + k * stride;
    float* sum = sums ? sums + k * stride : nullptr;
    V left_dot = {}, right_dot = {};
    for (int64_t e = 0; e < size; e += kWidth) {
      const V left = load(panel + e), right = load(panel + e + kVector);
      left_dot += left * load(copy + e);
      right_dot += right * load(copy + e + kVector);
      if (!sum) continue;
      store(sum + e, load(sum + e) + code[k] * left);
      store(sum + e + kVector, load(sum + e + kVector) + code[k] * right);
    }
    dots[k] = sum_of_lanes<float>(left_dot) + sum_of_lanes<float>(right_dot);
  }
}

void dense_gather(const DenseGather& args, const float* panel, int64_t panel_index, const float* bias,
                  int64_t begin, int64_t end) {
  TileSources sources(args);
  const int64_t channel = panel_index * kWidth, width = std::min(kWidth, args.target_channels - channel);
  for_each_tile(begin, end, [&](int64_t from, int64_t rows) {
    const std::vector<TileSources::Tap>& taps = sources.of(from, rows);
    with_rows(rows, [&](auto count) {
      gather_tile<decltype(count)::value>(args, taps, panel, bias, from, channel, width);
    });
  });
}

void dense_weight_gradient(const DenseWeightGradient& args, int64_t panel_index, int64_t begin, int64_t end,
                           float* gradient) {
  const GatherPlan& plan = *args.plan;
  const int64_t channel = panel_index * kWidth, width = std::min(kWidth, args.in_channels - channel);
  // Positions at a time whose rows of input and gradient fit in L2.
  const int64_t positions = std::clamp<int64_t>((1 << 16) / (args.in_channels + args.out_channels), 16, 4096);
  std::vector<Pair> pairs;
  for (int64_t first = begin; first < end; first += positions) {
    const int64_t last = std::min(first + positions, end);
    for (int64_t t = 0; t < plan.taps(); ++t) {
      const int64_t ky = t / plan.kernel_width, kx = t % plan.kernel_width;
      pairs.clear();
      for (int64_t g = first; g < last; ++g) {
        const int64_t sample = g / plan.target_pixels, pixel = g % plan.target_pixels;
        const int64_t y =
            plan.row_source[static_cast<size_t>(pixel / plan.target_width * plan.kernel_height + ky)];
        const int64_t x =
            plan.column_source[static_cast<size_t>(pixel % plan.target_width * plan.kernel_width + kx)];
        if (y < 0 || x < 0) continue;
        pairs.push_back(
            {args.input + (sample * plan.source_pixels + y * plan.source_width + x) * args.in_channels,
             args.grad + g * args.out_channels});
      }
      if (pairs.empty()) continue;
      float* tap = gradient + t * args.out_channels * kWidth;
      for_each_tile(0, args.out_channels, [&](int64_t row, int64_t rows) {
        with_rows(rows, [&](auto count) {
          gradient_tile<decltype(count)::value>(pairs, row, channel, width, tap);
        });
      });
    }
  }
}

}  // namespace kshot::cpu::KSHOT_ISA
