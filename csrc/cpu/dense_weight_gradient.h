// The product that makes the gradient of the weight, with positions as the long axis; see dense_conv2d.cpp.
#pragma once

#include <algorithm>
#include <array>

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

// What tap t reads at position g, or null in the padding.
inline const float* input_row(const DenseWeightGradient& args, int64_t g, int64_t t) {
  const GatherPlan& plan = *args.plan;
  if (plan.in_order) return args.input.data + g * args.input.stride;
  const int64_t sample = g / plan.places(), place = g % plan.places();
  const int64_t pixel = plan.source[static_cast<size_t>(place * plan.taps + t)];
  return pixel < 0 ? nullptr : args.input.data + (sample * plan.source_pixels + pixel) * args.input.stride;
}

// The positions of a chunk where input and gradient meet at one tap: what becomes rows and what lanes.
class Meetings {
 public:
  static constexpr int64_t kMost = 128;

  explicit Meetings(const DenseWeightGradient& args) : args_(args) {}

  // Of positions [begin, end), at most kMost of them.
  void find(int64_t begin, int64_t end, int64_t tap) {
    const GatherPlan& plan = *args_.plan;
    size = 0;
    const float *input = args_.input.data + begin * args_.input.stride,
                *grad = args_.grad.data + begin * args_.grad.stride;
    if (plan.in_order) {
      const float *row = (args_.by_output ? input : grad) + args_.row_begin,
                  *lane = args_.by_output ? grad : input;
      const int64_t row_stride = args_.by_output ? args_.input.stride : args_.grad.stride,
                    lane_stride = args_.by_output ? args_.grad.stride : args_.input.stride;
      size = end - begin;
      for (int64_t i = 0; i < size; ++i) rows[i] = row + i * row_stride, lanes[i] = lane + i * lane_stride;
      return;
    }
    for (int64_t g = begin; g < end; ++g, grad += args_.grad.stride) {
      if (!(input = input_row(args_, g, tap))) continue;
      rows[size] = (args_.by_output ? input : grad) + args_.row_begin;
      lanes[size++] = args_.by_output ? grad : input;
    }
  }

  int64_t size = 0;
  std::array<const float*, kMost> rows, lanes;

 private:
  const DenseWeightGradient& args_;
};

// gradient rows [row, row + rows) of one tap += sum over the `meetings`, whose lanes are packed; = if
// `overwrite`
template <int rows, int vectors>
__attribute__((noinline)) void gradient_tile(const Meetings& meetings, const float* lanes, int64_t row,
                                             float* gradient, int64_t panel_width, bool overwrite) {
  V sums[rows][vectors] = {};
  for (int64_t i = 0; i < meetings.size; ++i) {
    const float* values = meetings.rows[i];
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
  constexpr int64_t kPositions = Meetings::kMost, kChannels = 384;
  const GatherPlan& plan = *args.plan;
  const int64_t lane_channels = args.by_output ? args.out_channels : args.in_channels;
  const int64_t row_channels = args.row_end - args.row_begin;
  const auto grad_row = [&](int64_t g) { return args.grad.data + g * args.grad.stride; };
  Meetings meetings(args);
  alignas(64) float lanes[kPositions * kMostVectors * kVector];
  for (bool overwrite = args.overwrite; begin < end; begin += kPositions, overwrite = false) {
    const int64_t stop = std::min(begin + kPositions, end);
    // The rows of the next chunk are brought to L2 while this one is worked on.
    Prefetcher prefetcher(plan.taps * gradient.size() * ((row_channels + kRows - 1) / kRows));
    if (stop < end) {
      const int64_t next = std::min(stop + kPositions, end);
      prefetcher.add(grad_row(stop), grad_row(next - 1) + args.out_channels - grad_row(stop));
      const float *first = input_row(args, stop, 0), *last = input_row(args, next - 1, 0);
      if (plan.taps == 1 && first && last) prefetcher.add(first, last + args.in_channels - first);
    } else {
      for (int i = 0; i < 2; ++i) {
        if (args.next[i]) prefetcher.add(args.next[i], args.next_size[i]);
      }
    }
    for (int64_t t = 0; t < plan.taps; ++t) {
      meetings.find(begin, stop, t);
      for (int64_t first_row = 0; first_row < row_channels; first_row += kChannels) {
        const int64_t rows_of_block = std::min(kChannels, row_channels - first_row);
        for (int64_t p = gradient.begin; p < gradient.end; ++p) {
          float* tap = gradient.of(p) + t * row_channels * gradient.width;
          const int64_t channel = p * gradient.width,
                        width = std::min(gradient.width, lane_channels - channel);
          with_vectors<panel_vectors>(width, [&](auto vectors) {
            // One after the other in memory: rows of some lengths share few sets of the caches.
            float* to = lanes;
            for (int64_t i = 0; i < meetings.size; ++i) {
              V row[decltype(vectors)::value];
              load_row(row, meetings.lanes[i] + channel, width);
#pragma GCC unroll 4
              for (const V& vector : row) store(to, vector), to += kVector;
            }
            for_each_tile<kRows>(rows_of_block, [&](auto rows, int64_t row) {
              prefetcher.step();
              gradient_tile<decltype(rows)::value, decltype(vectors)::value>(meetings, lanes, first_row + row,
                                                                             tap, gradient.width, overwrite);
            });
          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace kshot::cpu::KSHOT_ISA
