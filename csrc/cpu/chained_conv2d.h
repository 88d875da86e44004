// Links of a chain of convolutions, norms and activations, channels_last: arguments of the kernels; see
// chained_rows.h for the equations.
#pragma once

#include <cstdint>
#include <vector>

#include "common/activation.h"
#include "common/conv_geometry.h"
#include "common/dtype.h"
#include "cpu/depthwise_conv2d.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// A raw tensor x, [positions, channels], and the map z = activation(x * scale + shift) that makes of it what
// the link works on. Without a norm (scale null) z = activation(x).
struct ChainInput {
  DType dtype;
  const void* data;
  int64_t channels;
  Activation activation;
  const float *mean, *inverse_deviation;  // [C]
  const float *scale, *shift;             // [C], or [N, C]
  int64_t stride;                         // elements from sample to sample: 0 if shared
};

// The gradient of a raw output y by all its uses, g + slope * (y - mean) + constant: g came from the next
// link, the rest from its moments. Without the latter (output null) it is g.
struct ChainGradient {
  DType dtype;
  const void* grad;    // [positions, channels]
  const void* output;  // [positions, channels], or null
  int64_t channels;
  const float *mean, *slope, *constant;  // [C]
};

// A tensor that is written, [positions, channels].
struct ChainResult {
  DType dtype;
  void* data;
  int64_t channels;
  bool past_caches;  // whether it is too large for the caches
};

// Positions [begin, end) of one sample, all channels, as float: z, or the gradient of a raw output.
KSHOT_DECLARE(void chain_load(const ChainInput& input, int64_t sample, int64_t begin, int64_t end,
                              float* values))
KSHOT_DECLARE(void chain_load_gradient(const ChainGradient& gradient, int64_t begin, int64_t end,
                                       float* values))

// Stores positions [begin, end). Joins their mean and sum of squared deviations to moments [2, C], which hold
// those of `before` positions, unless moments is null.
KSHOT_DECLARE(void chain_store(const ChainResult& output, int64_t begin, int64_t end, const float* values,
                               float* moments, int64_t before))

// Positions [begin, end) of one sample: values are dL/dz. Stores dL/dx = h * scale and adds to sums [2, C],
// unless null, those of h = dL/dz * activation'(x * scale + shift) and of h * (x - mean) * inverse_deviation.
KSHOT_DECLARE(void chain_store_gradient(const ChainInput& input, const ChainResult& grad_input,
                                        int64_t sample, int64_t begin, int64_t end, const float* values,
                                        float* sums))

// The end of a chain: activation(x * scale + shift + residual), and its gradients.
struct ChainEnd {
  ChainInput input;
  const void* residual;                   // like the input, or null
  ChainResult output;                     // forward
  const void* grad;                       // backward: of the output
  ChainResult grad_input, grad_residual;  // the latter with null data if not asked for
};
KSHOT_DECLARE(void chain_end(const ChainEnd& args, int64_t sample, int64_t begin, int64_t end))
KSHOT_DECLARE(void chain_end_backward(const ChainEnd& args, int64_t sample, int64_t begin, int64_t end,
                                      float* sums))

// Depthwise links, as in depthwise_conv2d.h; weights are float, [taps, C] or [N, taps, C].
struct ChainDepthwise {
  ConvGeometry geometry;
  const AxisTaps* rows;                     // forward, along the height
  const std::vector<AxisSegment>* columns;  // and along the width
  ChainInput input;                         // [N, H, W, C]
  const float* weight;
  int64_t weight_stride;  // elements from sample to sample: 0 for a shared weight
};

// Writes the outputs of a task, and the moments [2, C] of its channels unless null.
KSHOT_DECLARE(void chained_depthwise(const ChainDepthwise& args, const ChainResult& output,
                                     const DepthwiseTask& task, float* moments))

struct ChainDepthwiseBackward {
  ChainDepthwise forward;
  const AxisTaps* transposed_rows;
  const std::vector<AxisSegment>* transposed_columns;
  ChainGradient gradient;
  ChainResult grad_input;  // with null data if not asked for
  int64_t sums_stride;  // elements from sample to sample of the sums, 0 if all samples of a task share them
};

// Writes the sums over a task's samples to grad_weight [taps, C], and adds to sums as chain_store_gradient.
KSHOT_DECLARE(void chained_depthwise_backward(const ChainDepthwiseBackward& args, const DepthwiseTask& task,
                                              float* grad_weight, float* sums))

}  // namespace kshot::cpu
