// Depthwise convolution of square kernels of 3, 5 and 7, in tiles; also the gradient of its input:
//
//     target[n, y, x, c] = bias[n, c] + sum_taps source[n, y', x', c] * taps[n, c, tap]
//
// A block owns some channels, a tile of targets and some samples, one after another. It mixes the taps of its
// channels in shared memory, once or per sample, and copies the source tile there. A thread takes its taps
// into registers, then makes groups of rows x columns targets of one channel (of two neighbouring ones in
// 16-bit types), reading every source that they reach once:
//
//     channels_last   lanes are channels             groups of 4 x 4
//     contiguous      lanes are columns              groups of 8 x 1 (8 x 2 against a stride of 2)
//
// Bound by memory: the multiply-adds of a 7x7 kernel take about as long as its traffic. Least bytes: source
// and target once. Read twice: the margin between tiles; and the dictionary by every block of its channels,
// which several samples per block keep small (with a code per sample, the block's share of the dictionary is
// held in shared memory for them).
#pragma once

#include "cuda/depthwise_gather.h"
#include "cuda/depthwise_taps.cuh"
#include "cuda/depthwise_tile.cuh"

namespace kshot::cuda {
namespace {

template <class Rows, class Columns, int lanes, class T>
__device__ __forceinline__ void gather_group(float (&sums)[Rows::size][Columns::size][lanes],
                                             const float (&taps)[Rows::kernel * Columns::kernel][lanes],
                                             const T* from, int row_step, int column_step) {
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
          for (int v = 0; v < lanes; ++v)
            sums[i][j][v] = fmaf(taps[Rows::tap(r, i) * Columns::kernel + k][v],
                                 source[Columns::source(k, j)][v], sums[i][j][v]);
        }
      }
    }
  }
}

// Stores the targets of a group that exist.
template <class T, int rows, int columns, int lanes>
__device__ __forceinline__ void store_group(const float (&sums)[rows][columns][lanes], T* to, int y, int x,
                                            const TileAxis& height, const TileAxis& width, int64_t row_stride,
                                            int64_t column_stride, bool whole_lanes, int channels_left) {
  const int64_t column_step = column_stride * width.target_step;
  to += y * row_stride + x * column_stride;
#pragma unroll
  for (int i = 0; i < rows; ++i, to += row_stride * height.target_step) {
    if (static_cast<unsigned>(y + i * height.target_step) >= static_cast<unsigned>(height.target)) continue;
    T* at = to;
#pragma unroll
    for (int j = 0; j < columns; ++j, at += column_step) {
      if (static_cast<unsigned>(x + j * width.target_step) >= static_cast<unsigned>(width.target)) continue;
      if constexpr (lanes == 1) {
        *at = from_sum<T>(sums[i][j][0]);
      } else if (whole_lanes) {
        store_vector<T, lanes>(at, sums[i][j]);
      } else {
        store_first<T, lanes>(at, sums[i][j], channels_left);
      }
    }
  }
}

template <class T, class Rows, class Columns, bool channels_last, int lanes>
__global__ void __launch_bounds__(kMostThreads, 2) depthwise_gather(const TiledGather args) {
  const TilePlan& plan = args.tiles;
  KSHOT_DYNAMIC_SHARED(unsigned char, shared);
  T* tile = reinterpret_cast<T*>(shared);
  float* block_taps = reinterpret_cast<float*>(tile + plan.source.elements);
  constexpr int tap_count = Rows::kernel * Columns::kernel;
  T* held = args.holds_dictionary
                ? reinterpret_cast<T*>(block_taps + plan.block.channels * tap_pitch(tap_count))
                : nullptr;

  const int channel_block = static_cast<int>(blockIdx.x % static_cast<unsigned>(plan.channel_blocks));
  const int tile_and_samples = static_cast<int>(blockIdx.x / static_cast<unsigned>(plan.channel_blocks));
  const int tiles = plan.tiles(), samples = tile_and_samples / tiles, tile_index = tile_and_samples % tiles;
  const int tile_row = tile_index / plan.width.tiles, tile_column = tile_index % plan.width.tiles;
  const int first_channel = channel_block * plan.block.channels;
  const Lane lane = lane_of_thread<channels_last>(plan.block);
  const int channel = first_channel + lane.channel * lanes;

  const ImageStrides<channels_last> strides(plan.channels, plan.height.target, plan.width.target);
  const int64_t source_sample = static_cast<int64_t>(plan.height.source) * plan.width.source * plan.channels;
  const int64_t target_sample = static_cast<int64_t>(plan.height.target) * plan.width.target * plan.channels;
  const int first_row = plan.height.target_origin + tile_row * plan.height.tile;
  const int first_column = plan.width.target_origin + tile_column * plan.width.tile;
  const int groups = plan.groups();

  const DictionaryPart<T> part{args.weight, first_channel, plan.block.channels, plan.channels, tap_count};
  const int64_t begin = static_cast<int64_t>(samples) * args.samples_per_block;
  const int64_t end = min(begin + args.samples_per_block, plan.batch);
  for (int64_t n = begin; n < end; ++n) {
    fill_tile<T, channels_last>(tile, plan.source, plan.block,
                                static_cast<const T*>(args.source) + n * source_sample,
                                plan.height.source_origin + tile_row * plan.height.source_advance,
                                plan.width.source_origin + tile_column * plan.width.source_advance,
                                first_channel, plan.height.source, plan.width.source, plan.channels);
    __pipeline_commit();
    if (n == begin && held != nullptr) {
      hold_dictionary(held, part);
      __syncthreads();
    }
    if (n == begin || varies_by_sample(args.weight)) mix_taps(block_taps, part, held, n, args.turned);
    __pipeline_wait_prior(0);
    __syncthreads();

    if (channel < plan.channels) {
      float taps[tap_count][lanes], bias[lanes];
#pragma unroll
      for (int v = 0; v < lanes; ++v) {
        const float* from = block_taps + (lane.channel * lanes + v) * tap_pitch(tap_count);
#pragma unroll
        for (int t = 0; t < tap_count; ++t) taps[t][v] = from[t];
        bias[v] = 0;
        if (args.bias != nullptr && channel + v < plan.channels) {
          bias[v] = static_cast<const float*>(args.bias)[n * args.bias_stride + channel + v];
        }
      }
      const T* first_source = tile + lane.channel * lanes * plan.source.channel_pitch;
      T* target = static_cast<T*>(args.target) + n * target_sample + channel * strides.channel;
      for (int group = lane.position; group < groups; group += 1 << plan.block.position_lanes_log2) {
        const int group_row = plan.column_groups.quotient(group);
        const Group row = group_of<Rows::size>(plan.height, group_row);
        const Group column =
            group_of<Columns::size>(plan.width, group - group_row * plan.column_groups.divisor());
        float sums[Rows::size][Columns::size][lanes];
#pragma unroll
        for (int i = 0; i < Rows::size; ++i) {
#pragma unroll
          for (int j = 0; j < Columns::size; ++j) {
#pragma unroll
            for (int v = 0; v < lanes; ++v) sums[i][j][v] = bias[v];
          }
        }
        gather_group<Rows, Columns, lanes>(
            sums, taps,
            first_source + row.held * plan.source.row_pitch + column.held * plan.source.column_pitch,
            plan.height.source_step * plan.source.row_pitch,
            plan.width.source_step * plan.source.column_pitch);
        store_group(sums, target, first_row + row.target, first_column + column.target, plan.height,
                    plan.width, strides.row, strides.column, args.whole_lanes, plan.channels - channel);
      }
    }
    __syncthreads();  // before the tile and the taps of the next sample
  }
}

}  // namespace
}  // namespace kshot::cuda
