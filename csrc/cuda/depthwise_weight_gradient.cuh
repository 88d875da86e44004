// Gradients of weight and bias of a depthwise convolution with a square kernel of 3, 5 or 7, in tiles:
//
//     grad_weight[c, tap] = sum over n, y, x of grad_output[n, y, x, c] * input[n, y', x', c]
//     grad_bias[c]        = sum over n, y, x of grad_output[n, y, x, c]
//
// A block owns some channels and a run of tiles (of one sample, or of the batch). For each it holds the tile
// of grad_output and the input that it reaches in shared memory. A thread owns one channel (two neighbouring
// ones of 16-bit types with 3x3) and keeps all its sums in registers from tile to tile; it goes through
// groups of rows x columns positions, as the gather does, reading every input that they reach once. At last
// the sums of a block's threads are joined in a fixed order, by shuffles, then warp by warp, and left as one
// partial sum; depthwise_partial_sums.cuh adds those.
//
// Bound by memory. Least bytes: input and grad_output once. Read twice: the margin between tiles of the
// input.
#pragma once

#include "cuda/depthwise_join.cuh"
#include "cuda/depthwise_weight_gradient.h"

namespace kshot::cuda {
namespace {

template <class Rows, class Columns, int lanes, class T>
__device__ __forceinline__ void gradient_group(float (&sums)[Rows::kernel * Columns::kernel + 1][lanes],
                                               const T* grad, int grad_row_step, int grad_column_step,
                                               const T* from, int row_step, int column_step) {
  float grads[Rows::size][Columns::size][lanes];
#pragma unroll
  for (int i = 0; i < Rows::size; ++i, grad += grad_row_step) {
#pragma unroll
    for (int j = 0; j < Columns::size; ++j) {
      load_lanes<T, lanes>(grads[i][j], grad + j * grad_column_step);
#pragma unroll
      for (int v = 0; v < lanes; ++v) sums[Rows::kernel * Columns::kernel][v] += grads[i][j][v];
    }
  }
#pragma unroll
  for (int r = 0; r < Rows::sources; ++r, from += row_step) {
    float source[Columns::sources][lanes];
    load_columns<Columns::sources, lanes>(source, from, column_step);
#pragma unroll
    for (int i = 0; i < Rows::size; ++i) {
      if (!Rows::meet(r, i)) continue;
#pragma unroll
      for (int j = 0; j < Columns::size; ++j) {
#pragma unroll
        for (int k = 0; k < Columns::kernel; ++k) {
          if (!Columns::has_source(k, j)) continue;
#pragma unroll
          for (int v = 0; v < lanes; ++v) {
            float& sum = sums[Rows::tap(r, i) * Columns::kernel + k][v];
            sum = fmaf(grads[i][j][v], source[Columns::source(k, j)][v], sum);
          }
        }
      }
    }
  }
}

template <class T, class Rows, class Columns, bool channels_last, int lanes>
__global__ void __launch_bounds__(kMostThreads, 2) depthwise_weight_gradient(const TiledWeightGradient args) {
  const TilePlan& plan = args.tiles;
  KSHOT_DYNAMIC_SHARED(unsigned char, shared);
  T* tile = reinterpret_cast<T*>(shared);
  T* grad_tile = tile + plan.source.elements;
  float* joined = reinterpret_cast<float*>(grad_tile + plan.target.elements);
  constexpr int count = Rows::kernel * Columns::kernel + 1;

  const int channel_block = static_cast<int>(blockIdx.x % static_cast<unsigned>(plan.channel_blocks));
  const int64_t piece_index = blockIdx.x / static_cast<unsigned>(plan.channel_blocks);
  const int64_t group_index = piece_index / args.pieces.pieces, piece = piece_index % args.pieces.pieces;
  const int64_t begin = group_index * args.pieces.items + piece * args.pieces.items / args.pieces.pieces;
  const int64_t end = group_index * args.pieces.items + (piece + 1) * args.pieces.items / args.pieces.pieces;
  const int first_channel = channel_block * plan.block.channels;
  const Lane lane = lane_of_thread<channels_last>(plan.block);
  const int64_t input_sample =
      static_cast<int64_t>(plan.height.source) * plan.width.source * plan.source_stride;
  const int64_t grad_sample =
      static_cast<int64_t>(plan.height.target) * plan.width.target * plan.target_stride;
  const int tiles = plan.tiles(), groups = plan.groups();

  float sums[count][lanes];
#pragma unroll
  for (int t = 0; t < count; ++t) {
#pragma unroll
    for (int v = 0; v < lanes; ++v) sums[t][v] = 0;
  }
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / tiles;
    const int tile_index = static_cast<int>(item - n * tiles);
    const int tile_row = tile_index / plan.width.tiles,
              tile_column = tile_index - tile_row * plan.width.tiles;
    fill_tile<T, channels_last>(tile, plan.source, plan.block,
                                static_cast<const T*>(args.input) + n * input_sample,
                                source_place(plan, tile_row, tile_column, first_channel));
    fill_tile<T, channels_last>(grad_tile, plan.target, plan.block,
                                static_cast<const T*>(args.grad_output) + n * grad_sample,
                                {tile_row * plan.height.tile, tile_column * plan.width.tile, first_channel,
                                 plan.height.target, plan.width.target, plan.channels, plan.target_stride});
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    const T* held = tile + lane.channel * lanes * plan.source.channel_pitch;
    const T* held_grad = grad_tile + lane.channel * lanes * plan.target.channel_pitch;
    for (int group = lane.position; group < groups; group += 1 << plan.block.position_lanes_log2) {
      const int group_row = plan.column_groups.quotient(group);
      const Group row = group_of<Rows::size>(plan.height, group_row);
      const Group column =
          group_of<Columns::size>(plan.width, group - group_row * plan.column_groups.divisor());
      gradient_group<Rows, Columns, lanes>(
          sums, held_grad + row.target * plan.target.row_pitch + column.target * plan.target.column_pitch,
          plan.height.target_step * plan.target.row_pitch, plan.width.target_step * plan.target.column_pitch,
          held + row.held * plan.source.row_pitch + column.held * plan.source.column_pitch,
          plan.height.source_step * plan.source.row_pitch, plan.width.source_step * plan.source.column_pitch);
    }
    __syncthreads();  // before the next tiles
  }

  join_sums<channels_last>(joined, sums, plan.block, lane);
  const int left = min(plan.block.channels, plan.channels - first_channel);
  float* partial = static_cast<float*>(args.partial) + (piece_index * plan.channels + first_channel) * count;
  for (int i = static_cast<int>(threadIdx.x); i < left * count; i += static_cast<int>(blockDim.x)) {
    partial[i] = joined[i / count * tap_pitch(count) + i % count];
  }
}

}  // namespace
}  // namespace kshot::cuda
