// Batch norm, residual and activation in channels_last: arguments and launch functions; see
// batch_norm_moments.cuh, batch_norm_act.cuh and batch_norm_act_backward.cuh.
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/dtype.h"
#include "common/pixels.h"

namespace kshot::cuda {

// Tensors of elements are [positions, channels], a position being a pixel of a sample; those that are read
// may be neighbouring channels of wider ones. All per-channel arrays are of the sum type.
struct BatchNormMoments {
  DType dtype;
  int64_t channels, positions;
  Pixels<void> input;
  void* workspace;
  void* mean;      // [C], written
  void* variance;  // [C], written: the biased one; zero where there are no positions
};

struct BatchNormAct {
  DType dtype;
  Activation activation;
  int64_t channels;
  int64_t samples;               // those with parameters of their own, or 1 if all are shared
  int64_t positions_per_sample;  // of one such sample
  double eps;
  Pixels<void> input;
  Pixels<void> residual;               // or null
  const void* mean;                    // [C]
  const void* variance;                // [C]
  const void* weight;                  // [C], [N, C], or null for one
  const void* bias;                    // [C], [N, C], or null for zero
  int64_t weight_stride, bias_stride;  // elements from sample to sample: 0 if shared
  void* output;
};

struct BatchNormActBackward {
  BatchNormAct forward;  // output unused
  Pixels<void> grad_output;
  void* workspace;
  // [samples, 2, C], written by the sums, with g = dL/d(activation's argument): sums over positions of g, the
  // bias's gradient, and of g * normalised input, the weight's.
  void* sums;
  // [2, C], written by the sums and read by the gradient: the same over all samples, times the sample's
  // weight and divided by the number of positions, which is what the input's gradient subtracts where the
  // statistics are the batch's. Null for fixed ones.
  void* mean_grads;
  void* grad_input;
  void* grad_residual;  // or null
};

// Mean and variance of each channel. The workspace has the bytes that the second function tells.
void batch_norm_moments(const BatchNormMoments& args, void* stream);
int64_t batch_norm_moments_workspace(const BatchNormMoments& args);

void batch_norm_act(const BatchNormAct& args, void* stream);

// The sums over positions, then (with their results in place) the gradients of input and residual; for fixed
// statistics the sums' pass writes these, too, and the second function does nothing.
void batch_norm_act_sums(const BatchNormActBackward& args, void* stream);
int64_t batch_norm_act_sums_workspace(const BatchNormActBackward& args);
void batch_norm_act_backward(const BatchNormActBackward& args, void* stream);

}  // namespace kshot::cuda
