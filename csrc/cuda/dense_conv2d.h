// Dense (groups = 1) convolution of a mixed weight, channels_last, as implicit matrix products: arguments and
// launch functions. Kernels: dense_gather.cuh (forward, gradient of the input), dense_weight_gradient.cuh,
// dense_per_sample_gradient.cuh.
//
// Every function only enqueues work on `stream` (a cudaStream_t), and throws if a kernel does not start.
// Activations are [N, H, W, C] with the active channels side by side, of type float32, bfloat16 or float16;
// those that are read may be neighbouring channels of wider images; codes, gates, biases and the gradients of
// weights and codes are float32. float32 products run on tensor cores as tf32 if `allow_tf32`, else in plain
// float32.
#pragma once

#include <cstdint>

#include "common/conv_geometry.h"
#include "common/dtype.h"
#include "common/pixels.h"

namespace kshot::cuda {

constexpr int64_t kMostDenseCopies = 128;

// Every block of places (64 or 128 of them) mixes its weight anew, which suits a code per sample. For a code
// that many places share it takes fewer bytes to mix once beforehand and to pass the mixture as the only
// copy.
//
// K copies of a weight, each [C_out, KH, KW, C_in] with neighbouring input channels, and the code that mixes
// them. Strides are in elements; channels beyond the geometry's active ones are skipped by them.
struct DenseDictionary {
  const void* copies;
  int64_t shot_stride, out_stride, tap_stride;  // tap (y, x) lies at (y * KW + x) * tap_stride
  int32_t shots;                                // K, up to kMostDenseCopies
  const float* code;                            // [K] or [N, K]; null: the only copy as it is
  int64_t code_stride;                          // from sample to sample, 0 for a code shared by the batch
};

// A factor or an addend per output channel, [C_out] or [N, C_out]; null where there is none.
struct DenseChannels {
  const float* data;
  int64_t stride;  // from sample to sample, 0 where all share one
};

// output[n, p, o] = bias[n, o] + gate[n, o] * sum_{t, i} input[n, p at t, i] * mixed[n, o, t, i]
// The bias comes gated.
struct DenseForward {
  DType dtype;
  bool allow_tf32;
  ConvGeometry geometry;
  DenseDictionary weight;
  Pixels<void> input;
  DenseChannels gate, bias;
  void* output;
};

// grad_input[n, q, i] = sum_{t, o} grad[n, q from t, o] * gate[n, o] * mixed[n, o, t, i]
struct DenseInputGradient {
  DType dtype;
  bool allow_tf32;
  ConvGeometry geometry;
  DenseDictionary weight;
  Pixels<void> grad;
  DenseChannels gate;
  void* grad_input;
};

// gradient[o, t, i] = sum_{n, p} grad[n, p, o] * input[n, p at t, i], of the effective weight (gate included)
struct DenseWeightGradient {
  DType dtype;
  bool allow_tf32;
  ConvGeometry geometry;
  Pixels<void> grad, input;
  float* gradient;  // [C_out, KH, KW, C_in]
  void* workspace;  // dense_weight_gradient_workspace bytes, on a 16-byte boundary
};

// With G[n, o, t, i] = gate[n, o] * sum_p grad[n, p, o] * input[n, p at t, i], codes and gates per sample:
//     grad_weight[k, o, t, i] = sum_n code[n, k] * G[n, o, t, i]
//     grad_code[n, k]         = sum_{o, t, i} G[n, o, t, i] * weight[k, o, t, i]
struct DensePerSampleGradient {
  DType dtype;
  bool allow_tf32;
  ConvGeometry geometry;
  DenseDictionary weight;
  Pixels<void> grad, input;
  DenseChannels gate;
  float* grad_weight;  // strides of the dictionary; only the active part is written
  float* grad_code;    // [N, K]
  void* workspace;     // dense_per_sample_gradient_workspace bytes, on a 16-byte boundary
};

void dense_forward(const DenseForward& args, void* stream);
void dense_input_gradient(const DenseInputGradient& args, void* stream);
int64_t dense_weight_gradient_workspace(const DenseWeightGradient& args);
void dense_weight_gradient(const DenseWeightGradient& args, void* stream);
int64_t dense_per_sample_gradient_workspace(const DensePerSampleGradient& args);
void dense_per_sample_gradient(const DensePerSampleGradient& args, void* stream);

}  // namespace kshot::cuda
