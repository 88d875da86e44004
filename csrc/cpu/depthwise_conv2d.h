// Depthwise convolution in channels_last: arguments of the kernels; see depthwise_conv2d.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "common/activation.h"
#include "common/conv_geometry.h"
#include "common/dtype.h"
#include "common/pixels.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// Forward, or with transposed segments the gradient of the input: a gather over taps either way. What is
// stored is activation(bias + sum).
struct DepthwiseGather {
  DType dtype;
  int64_t channels;
  int64_t source_height, source_width, target_height, target_width;
  const AxisTaps* rows;                     // along the height
  const std::vector<AxisSegment>* columns;  // along the width
  int64_t kernel_height, kernel_width;
  Pixels<void> source;
  const void* weight;     // [taps, C] or [N, taps, C]
  int64_t weight_stride;  // elements from sample to sample: 0 for a shared weight
  const void* bias;       // [C], [N, C], or null
  int64_t bias_stride;    // elements from sample to sample: 0 for a shared bias
  void* target;           // [N, target_height, target_width, C]
  bool past_caches;       // whether the target is too large for the caches
  Activation activation = Activation::kIdentity;
};

struct DepthwiseWeightGradient {
  DType dtype;
  ConvGeometry geometry;
  const AxisTaps* rows;                     // forward, along the height
  const std::vector<AxisSegment>* columns;  // and along the width
  Pixels<void> input, grad_output;
};

// What one call works on.
struct DepthwiseTask {
  int64_t sample_begin, sample_end, channel_begin, channel_end;
};

KSHOT_DECLARE(void depthwise_gather(const DepthwiseGather& args, const DepthwiseTask& task))

// Writes the sums over the task's samples to grad_weight [taps, C], of the sum type; makes the gradient of
// the input as well unless `input_gradient` is null.
KSHOT_DECLARE(void depthwise_backward(const DepthwiseGather* input_gradient,
                                      const DepthwiseWeightGradient& gradient, const DepthwiseTask& task,
                                      void* grad_weight))

}  // namespace kshot::cpu
