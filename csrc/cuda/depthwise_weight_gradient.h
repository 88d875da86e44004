// The tiled gradient of the weight of a depthwise convolution: arguments of its kernels, and how they are
// launched. Kernels: depthwise_weight_gradient.cuh, compiled per element type in
// depthwise_weight_gradient_TYPE.cu.
#pragma once

#include "cuda/depthwise_conv2d.h"
#include "cuda/depthwise_plan.h"

namespace kshot::cuda {

// Sums of tiles are taken in pieces, of a fixed cut: groups (one, or one per sample) of so many pieces, each
// of which covers its share of the group's tiles. Piece p of group g leaves
//
//     partial[g * pieces + p][channel][taps, then the bias]
struct WeightGradientPieces {
  int64_t groups, pieces;
  int64_t items;  // tiles of all samples in a group
};

struct TiledWeightGradient {
  TilePlan tiles;
  WeightGradientPieces pieces;
  const void* input;
  const void* grad_output;
  void* partial;
};

// One element type each.
void launch_weight_gradient_float32(const TiledWeightGradient& plan, const WindowShape& window,
                                    bool channels_last, void* stream);
void launch_weight_gradient_bfloat16(const TiledWeightGradient& plan, const WindowShape& window,
                                     bool channels_last, void* stream);
void launch_weight_gradient_float16(const TiledWeightGradient& plan, const WindowShape& window,
                                    bool channels_last, void* stream);

}  // namespace kshot::cuda
