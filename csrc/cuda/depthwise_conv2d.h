// Depthwise convolution whose weight is mixed inside: arguments and launch functions.
//
//     taps[n, c, t]   = gate[n, c] * sum_k code[n, k] * dictionary[k, c, t]
//     output[n, c, :] = bias[n, c] + input[n, c, :] convolved with taps[n, c, :]
//
// The bias comes mixed and gated. Codes, gates, biases and the gradients of weight and bias are of the sum
// type: float, or double for float64. All pointers are to device memory. Images that are read may be
// neighbouring channels of wider ones in channels_last; in the other layout their stride is the number of
// channels.
#pragma once

#include <cstdint>

#include "common/conv_geometry.h"
#include "common/dtype.h"
#include "common/pixels.h"

namespace kshot::cuda {

enum class Layout : int8_t { kChannelsLast, kContiguous };  // of the images: [N, H, W, C] or [N, C, H, W]

// Tap t (row by row) of channel c in copy k lies at k * shot_stride + c * channel_stride + t * tap_stride, so
// that dictionaries [K, C, KH, KW] and [K, taps, C] serve as they are.
struct DepthwiseWeight {
  const void* dictionary;
  int64_t shots, shot_stride, channel_stride, tap_stride;
  const void* code;     // [K] or [N, K]; null for a single copy that is the weight
  int64_t code_stride;  // elements from sample to sample: K, or 0 for a code shared by the batch
  const void* gate;     // [C], [N, C], or null
  int64_t gate_stride;  // elements from sample to sample: 0 for a shared gate
};

struct DepthwiseConv2d {
  DType dtype;
  Layout layout;
  ConvGeometry geometry;
  DepthwiseWeight weight;
  Pixels<void> input;
  const void* bias;     // [C], [N, C], or null
  int64_t bias_stride;  // elements from sample to sample: 0 for a shared bias
  void* output;
};

struct DepthwiseInputGradient {
  DType dtype;
  Layout layout;
  ConvGeometry geometry;
  DepthwiseWeight weight;
  Pixels<void> grad_output;
  void* grad_input;
};

// Gradients of the mixed taps and of the bias; those of dictionary, code and gate follow from them.
struct DepthwiseWeightGradient {
  DType dtype;
  Layout layout;
  ConvGeometry geometry;
  bool per_sample;  // one gradient per sample, or their sum
  Pixels<void> input, grad_output;
  void* grad_weight;  // tap t of channel c at n * sample_stride + c * channel_stride + t * tap_stride
  int64_t sample_stride, channel_stride, tap_stride;
  void* grad_bias;  // [C], per sample [N, C]; or null
  void* workspace;  // as many bytes as depthwise_weight_gradient_workspace says
};

void depthwise_conv2d(const DepthwiseConv2d& args, void* stream);
void depthwise_input_gradient(const DepthwiseInputGradient& args, void* stream);

int64_t depthwise_weight_gradient_workspace(const DepthwiseWeightGradient& args);
void depthwise_weight_gradient(const DepthwiseWeightGradient& args, void* stream);

}  // namespace kshot::cuda
