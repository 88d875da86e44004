// A linear map with a code per sample and one row a sample: all K copies applied to the whole batch, since a
// weight mixed for one row takes as many multiplications as that, and is read once only.
//
//     output[n, o] = bias[n, o] + sum_k <code[n, k] * input[n], weight[k, o]>
//
// and, with u[n, k] = sum_o grad[n, o] * weight[k, o],
//
//     dL/dinput[n]     = sum_k code[n, k] * u[n, k]
//     dL/dcode[n, k]   = <input[n], u[n, k]>
//     dL/dweight[k, o] = sum_n code[n, k] * grad[n, o] * input[n]
//
// Rows of the weight are read where they lie, once forward and once backward for each tile of samples; lanes
// are input channels, so forward each output is the sum of a vector's lanes. Bound by arithmetic from batches
// of about 8 on, by reading the copies below.
#include "cpu/stacked_linear.h"

#include <algorithm>
#include <vector>

#include "cpu/dense_tiles.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// A tile of the forward pass, its sums in registers: samples by output channels.
constexpr int kTileSamples = kSums / 3, kTileOutputs = 3;

// sums[m][j] += row m * weight row j, `lanes` elements
template <int samples, int outputs, class Lanes>
inline void multiply_rows(V (&sums)[samples][outputs], const float* rows, int64_t rows_stride,
                          const float* weight, int64_t row_stride, Lanes lanes) {
  V right[outputs];
#pragma GCC unroll 4
  for (int j = 0; j < outputs; ++j) right[j] = load_lanes(weight + j * row_stride, lanes);
#pragma GCC unroll 8
  for (int m = 0; m < samples; ++m) {
    const V left = load_lanes(rows + m * rows_stride, lanes);
#pragma GCC unroll 4
    for (int j = 0; j < outputs; ++j) sums[m][j] += left * right[j];
  }
}

template <int samples, int outputs>
__attribute__((noinline)) void forward_tile(const StackedLinear& args, const float* rows, const float* bias,
                                            float* output, int64_t n, int64_t o) {
  V sums[samples][outputs] = {};
  const int64_t rows_stride = args.shots * args.in_channels;
  for (int64_t k = 0; k < args.shots; ++k) {
    const float* row = rows + n * rows_stride + k * args.in_channels;
    const float* weight = args.weight + k * args.copy_stride + o * args.row_stride;
    int64_t i = 0;
    for (; i + kVector <= args.in_channels; i += kVector) {
      multiply_rows(sums, row + i, rows_stride, weight + i, args.row_stride, WholeVector{});
    }
    if (i < args.in_channels) {
      multiply_rows(sums, row + i, rows_stride, weight + i, args.row_stride, CutVector{args.in_channels - i});
    }
  }
  for (int m = 0; m < samples; ++m) {
    for (int j = 0; j < outputs; ++j) {
      const int64_t at = (n + m) * args.out_channels + o + j;
      output[at] = (bias ? bias[at] : 0.0f) + sum_of_lanes<float>(sums[m][j]);
    }
  }
}

// Some samples' u of one copy over the rows of a block, added to their shares of the gradients.
template <int samples, int vectors>
__attribute__((noinline)) void input_tile(const StackedGradients& args, const StackedBlock& block, int64_t k,
                                          int64_t n) {
  const StackedLinear& forward = args.forward;
  const int64_t width = block.lane_end - block.lane_begin;
  V sums[samples][vectors] = {};
  const float* weight =
      forward.weight + k * forward.copy_stride + block.row_begin * forward.row_stride + block.lane_begin;
  const float* grad = args.grad + n * args.grad_stride;
  for (int64_t o = block.row_begin; o < block.row_end; ++o, weight += forward.row_stride) {
    V right[vectors];
    load_row(right, weight, width);
#pragma GCC unroll 12
    for (int m = 0; m < samples; ++m) {
      const V left = splat(grad[m * args.grad_stride + o]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[m][v] += left * right[v];
    }
  }
  for (int m = 0; m < samples; ++m) {
    const float share = forward.code[(n + m) * forward.shots + k];
    if (block.grad_input) {
      float* target = block.grad_input + (n + m) * forward.in_channels + block.lane_begin;
      V total[vectors];
      load_row(total, target, width);
      for (int v = 0; v < vectors; ++v) total[v] += share * sums[m][v];
      store_row(target, total, width, false);
    }
    if (!block.grad_code) continue;
    V row[vectors], dots = {};
    load_row(row, forward.input + (n + m) * forward.input_stride + block.lane_begin, width);
    for (int v = 0; v < vectors; ++v) dots += row[v] * sums[m][v];
    block.grad_code[(n + m) * forward.shots + k] += sum_of_lanes<float>(dots);
  }
}

// The gradient of some rows of a copy; `scaled` are the block's output gradients, [N, block rows], each times
// the sample's coefficient of this copy.
template <int rows, int vectors>
__attribute__((noinline)) void weight_tile(const StackedGradients& args, const StackedBlock& block, int64_t k,
                                           const float* scaled, int64_t row) {
  const StackedLinear& forward = args.forward;
  const int64_t width = block.lane_end - block.lane_begin, block_rows = block.row_end - block.row_begin;
  V sums[rows][vectors] = {};
  const float* input = forward.input + block.lane_begin;
  scaled += row;
  for (int64_t n = 0; n < forward.samples; ++n, input += forward.input_stride, scaled += block_rows) {
    V right[vectors];
    load_row(right, input, width);
#pragma GCC unroll 12
    for (int m = 0; m < rows; ++m) {
      const V left = splat(scaled[m]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[m][v] += left * right[v];
    }
  }
  float* target = block.grad_weight + k * forward.copy_stride + (block.row_begin + row) * forward.row_stride +
                  block.lane_begin;
  for (int m = 0; m < rows; ++m) store_row(target + m * forward.row_stride, sums[m], width, false);
}

template <int vectors>
void backward_block(const StackedGradients& args, const StackedBlock& block) {
  constexpr int kRows = rows_of(vectors);
  const StackedLinear& forward = args.forward;
  const int64_t block_rows = block.row_end - block.row_begin;
  if (block.grad_input) {
    for (int64_t n = 0; n < forward.samples; ++n) {
      float* row = block.grad_input + n * forward.in_channels;
      std::fill(row + block.lane_begin, row + block.lane_end, 0.0f);
    }
  }
  if (block.grad_code) std::fill(block.grad_code, block.grad_code + forward.samples * forward.shots, 0.0f);
  std::vector<float> scaled(static_cast<size_t>(block.grad_weight ? forward.samples * block_rows : 0));
  for (int64_t k = 0; k < forward.shots; ++k) {
    if (block.grad_input || block.grad_code) {
      for_each_tile<kRows>(forward.samples, [&](auto samples, int64_t n) {
        input_tile<decltype(samples)::value, vectors>(args, block, k, n);
      });
    }
    if (!block.grad_weight) continue;
    for (int64_t n = 0; n < forward.samples; ++n) {
      const float share = forward.code[n * forward.shots + k];
      const float* grad = args.grad + n * args.grad_stride + block.row_begin;
      float* target = scaled.data() + n * block_rows;
      for (int64_t o = 0; o < block_rows; ++o) target[o] = share * grad[o];
    }
    for_each_tile<kRows>(block_rows, [&](auto rows, int64_t row) {
      weight_tile<decltype(rows)::value, vectors>(args, block, k, scaled.data(), row);
    });
  }
}

}  // namespace

void stacked_rows(const StackedLinear& args, float* rows, int64_t begin, int64_t end) {
  rows += begin * args.shots * args.in_channels;
  for (int64_t n = begin; n < end; ++n) {
    const float* input = args.input + n * args.input_stride;
    for (int64_t k = 0; k < args.shots; ++k, rows += args.in_channels) {
      const float share = args.code[n * args.shots + k];
      for (int64_t i = 0; i < args.in_channels; ++i) rows[i] = share * input[i];
    }
  }
}

void stacked_linear(const StackedLinear& args, const float* rows, const float* bias, float* output,
                    int64_t begin, int64_t end) {
  for_each_tile<kTileOutputs>(
      end,
      [&](auto outputs, int64_t o) {
        for_each_tile<kTileSamples>(args.samples, [&](auto samples, int64_t n) {
          forward_tile<decltype(samples)::value, decltype(outputs)::value>(args, rows, bias, output, n, o);
        });
      },
      begin);
}

void stacked_linear_backward(const StackedGradients& args, const StackedBlock& block) {
  with_vectors(block.lane_end - block.lane_begin,
               [&](auto vectors) { backward_block<decltype(vectors)::value>(args, block); });
}

}  // namespace kshot::cpu::KSHOT_ISA
