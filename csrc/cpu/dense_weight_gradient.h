// The product that makes the gradient of the weight, with positions as the long axis; see dense_conv2d.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "cpu/dense_conv2d.h"
#include "cpu/dense_tiles.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

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

// gradient rows [row, row + rows) of one tap += sum over the positions of `row_values` and `lanes`; = if
// `overwrite`
template <int rows, int vectors>
__attribute__((noinline)) void gradient_tile(const std::vector<const float*>& row_values, const float* lanes,
                                             int64_t row, float* gradient, int64_t panel_width,
                                             bool overwrite) {
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
    for (int v = 0; v < vectors; ++v) {
      const V before = overwrite ? V{} : load(target + v * kVector);
      store(target + v * kVector, before + sums[m][v]);
    }
  }
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
    return pixel < 0 ? nullptr : args.input.data + (sample * plan.source_pixels + pixel) * args.input.stride;
  };
  const auto grad_row = [&](int64_t g) { return args.grad.data + g * args.grad.stride; };
  std::vector<const float*> lane_values, row_values;  // of the positions where input and gradient meet
  alignas(64) float lanes[kPositions * kMostVectors * kVector];
  for (bool overwrite = args.overwrite; begin < end; begin += kPositions, overwrite = false) {
    const int64_t stop = std::min(begin + kPositions, end);
    // The rows of the next chunk are brought to L2 while this one is worked on.
    Prefetcher prefetcher(plan.taps * gradient.size() * ((row_channels + kRows - 1) / kRows));
    if (stop < end) {
      const int64_t next = std::min(stop + kPositions, end);
      prefetcher.add(grad_row(stop), grad_row(next - 1) + args.out_channels - grad_row(stop));
      const float *first = input_row(stop, 0), *last = input_row(next - 1, 0);
      if (plan.taps == 1 && first && last) prefetcher.add(first, last + args.in_channels - first);
    } else {
      for (int i = 0; i < 2; ++i) {
        if (args.next[i]) prefetcher.add(args.next[i], args.next_size[i]);
      }
    }
    for (int64_t t = 0; t < plan.taps; ++t) {
      lane_values.clear();
      row_values.clear();
      for (int64_t g = begin; g < stop; ++g) {
        const float *input = input_row(g, t), *grad = grad_row(g);
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
                  row_values, lanes, first_row + row, tap, gradient.width, overwrite);
            });
          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace kshot::cpu::KSHOT_ISA
