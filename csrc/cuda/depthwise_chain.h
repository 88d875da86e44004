// Depthwise links of a chain, channels_last: arguments and launch functions. Kernels: depthwise_gather.cuh,
// with what links do besides in depthwise_links.cuh.
#pragma once

#include "cuda/chain.h"
#include "cuda/depthwise_gather.h"
#include "cuda/depthwise_weight_gradient.h"

namespace kshot::cuda {

struct ChainedDepthwise {
  DType dtype;  // float32, bfloat16 or float16
  ConvGeometry geometry;
  DepthwiseWeight weight;
  const void* input;  // raw
  ChainNorm norm;
  void* output;            // raw
  float *mean, *variance;  // [C], of the output; null: not asked for
  void* workspace;         // as many bytes as the function below says
};

struct ChainedDepthwiseBackward {
  DType dtype;
  ConvGeometry geometry;
  DepthwiseWeight weight;
  const void* input;
  ChainNorm norm;
  ChainGradient gradient;
  void* grad_input;    // or null
  bool per_sample;     // whether grad_weight has a gradient for each sample
  float* grad_weight;  // of the mixed taps, [C, taps] or [N, C, taps]
  float* norm_sums;    // [samples or 1, 2, C] as ChainNormGradient has them
  void* workspace;
};

// Whether there are kernels for such a convolution: kernels of 3, 5 and 7, strides of 1 and 2, both ways.
bool chained_depthwise_serves(DType dtype, const ConvGeometry& geometry);

int64_t chained_depthwise_workspace(const ChainedDepthwise& args);
void chained_depthwise(const ChainedDepthwise& args, void* stream);
int64_t chained_depthwise_backward_workspace(const ChainedDepthwiseBackward& args);
void chained_depthwise_backward(const ChainedDepthwiseBackward& args, void* stream);

// Targets of a thread's group along an axis; backward with larger kernels, whose taps take as many sums,
// fewer.
constexpr int kGroupSize = 4;
constexpr int backward_rows(int kernel) {
  return kernel == 3 ? 4 : 2;
}
constexpr int backward_columns(int kernel) {
  return kernel == 7 ? 2 : 4;
}
// Floats of a channel that a block holds beside its taps; see depthwise_links.cuh.
constexpr int kForwardValues = 2, kBackwardValues = 6;

// Of a launch.
struct ChainedGather : TiledGather {
  ChainNorm norm;
  float* moments;  // [pieces, 2, C], a piece being the samples of one block and one tile; null: not asked for
  float* counts;   // [pieces]: positions of each
};

struct ChainedGatherBackward : TiledGather {
  ChainNorm norm;
  ChainGradient gradient;
  const void* input;
  float* partial;  // [pieces, C, taps + 2]: gradient of the weight, then the norm's sums
};

struct ChainLaunch {
  WindowShape window;
  unsigned blocks;
  int64_t shared;
};

// One element type each.
void launch_chained_float32(const ChainedGather& plan, const ChainLaunch& launch, void* stream);
void launch_chained_bfloat16(const ChainedGather& plan, const ChainLaunch& launch, void* stream);
void launch_chained_float16(const ChainedGather& plan, const ChainLaunch& launch, void* stream);
void launch_chained_backward_float32(const ChainedGatherBackward& plan, const ChainLaunch& launch,
                                     void* stream);
void launch_chained_backward_bfloat16(const ChainedGatherBackward& plan, const ChainLaunch& launch,
                                      void* stream);
void launch_chained_backward_float16(const ChainedGatherBackward& plan, const ChainLaunch& launch,
                                     void* stream);

}  // namespace kshot::cuda
