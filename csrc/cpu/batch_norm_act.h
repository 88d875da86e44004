// Batch norm, residual and activation in channels_last: arguments of the kernels; see batch_norm_act.cpp.
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/dtype.h"
#include "common/pixels.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// A position is a pixel of a sample; results are [positions, channels]. All per-channel arrays are of the sum
// type.
struct BatchNormAct {
  DType dtype;
  Activation activation;
  int64_t channels;
  int64_t positions_per_sample;
  Pixels<void> input;
  Pixels<void> residual;               // or null
  const void* mean;                    // [C]
  const void* inverse_deviation;       // [C]: 1 / sqrt(var + eps)
  const void* weight;                  // [C], [N, C], or null for one
  const void* bias;                    // [C], [N, C], or null for zero
  int64_t weight_stride, bias_stride;  // elements from sample to sample: 0 if shared
  void* output;
  bool past_caches;  // whether results are too large for the caches
};

struct BatchNormActBackward {
  BatchNormAct forward;  // output unused
  Pixels<void> grad_output;
  // Sums over positions of g and of g * (input - mean) * inverse_deviation, times the sample's weight and
  // divided by the count: what the input's gradient subtracts when the statistics are the batch's. [C], or
  // null for fixed ones.
  const void* mean_grad;
  const void* mean_grad_normalised;
  void* grad_input;
  void* grad_residual;  // or null
};

// Count, mean and sum of squared deviations of positions [begin, end), written to moments [2, C] of the sum
// type.
KSHOT_DECLARE(void batch_norm_moments(DType dtype, const Pixels<void>& input, int64_t channels, int64_t begin,
                                      int64_t end, void* moments))

// Positions [begin, end) of the output, all of one sample.
KSHOT_DECLARE(void batch_norm_act(const BatchNormAct& args, int64_t sample, int64_t begin, int64_t end))

// Adds over positions [begin, end) of one sample to sums [2, C] of the sum type: g = dL/d(activation's
// argument) and g * normalised input.
KSHOT_DECLARE(void batch_norm_act_sums(const BatchNormActBackward& args, int64_t sample, int64_t begin,
                                       int64_t end, void* sums))

// Positions [begin, end) of the gradients of input and residual, all of one sample.
KSHOT_DECLARE(void batch_norm_act_backward(const BatchNormActBackward& args, int64_t sample, int64_t begin,
                                           int64_t end))

}  // namespace kshot::cpu
