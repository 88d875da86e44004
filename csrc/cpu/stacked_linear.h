// All K copies of a linear map applied to a batch: arguments of the kernels; see stacked_linear.cpp.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace kshot::cpu {

// The copies: (k, o, i) lies at weight[k * copy_stride + o * row_stride + i]; and the batch, whose rows lie
// `input_stride` apart.
struct StackedLinear {
  const float* weight;
  int64_t copy_stride, row_stride, shots, out_channels, in_channels;
  const float* input;  // [N, C_in]
  int64_t input_stride, samples;
  const float* code;  // [N, K]
};

struct StackedGradients {
  StackedLinear forward;
  const float* grad;  // [N, C_out]
  int64_t grad_stride;
};

// What one block of the backward pass makes; what is not asked for is null.
struct StackedBlock {
  int64_t row_begin, row_end;    // output channels
  int64_t lane_begin, lane_end;  // input channels, of one panel
  float* grad_input;             // [N, C_in]: these rows' share of these lanes
  float* grad_code;              // [N, K]: the block's share
  float* grad_weight;            // laid out as the weight
};

// rows[n, k, i] = code[n, k] * input[n, i] of samples [begin, end)
KSHOT_DECLARE(void stacked_rows(const StackedLinear& args, float* rows, int64_t begin, int64_t end))
// output[n, o] = bias[n, o] + sum_k <rows[n, k], weight[k, o]> of output channels [begin, end)
KSHOT_DECLARE(void stacked_linear(const StackedLinear& args, const float* rows, const float* bias,
                                  float* output, int64_t begin, int64_t end))
KSHOT_DECLARE(void stacked_linear_backward(const StackedGradients& args, const StackedBlock& block))

}  // namespace kshot::cpu
