// The tiled gather of depthwise convolution, forward or to the gradient of the input: its plan, and how one
// is launched. Kernels: depthwise_gather.cuh, compiled per element type in depthwise_gather_TYPE.cu.
#pragma once

#include "cuda/depthwise_conv2d.h"
#include "cuda/depthwise_plan.h"

namespace kshot::cuda {

// What a gather works on, for tiled and direct kernels alike.
struct DepthwiseGather {
  DType dtype;
  Layout layout;
  int64_t batch, channels;
  GatherAxis height, width;
  bool turned;  // taps from last to first
  DepthwiseWeight weight;
  Pixels<void> source;
  const void* bias;
  int64_t bias_stride;
  void* target;
};

struct TiledGather {
  TilePlan tiles;
  int samples_per_block;
  bool holds_dictionary;  // whether a block holds its share of the dictionary for its samples
  bool whole_lanes;       // whether a thread's channels are always as many and aligned to their size
  bool turned;
  DepthwiseWeight weight;
  const void* source;
  const void* bias;
  int64_t bias_stride;
  void* target;
};

// One element type each: false, and nothing launched, where no tile fits.
bool launch_gather_float32(const DepthwiseGather& args, const WindowShape& window, void* stream);
bool launch_gather_bfloat16(const DepthwiseGather& args, const WindowShape& window, void* stream);
bool launch_gather_float16(const DepthwiseGather& args, const WindowShape& window, void* stream);

}  // namespace kshot::cuda
