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

#include "cuda/depthwise_links.cuh"

namespace kshot::cuda {
namespace {

template <class T, class Rows, class Columns, bool channels_last, int lanes, class Link>
__global__ void __launch_bounds__(kMostThreads, 2) depthwise_gather(const typename Link::Arguments args) {
  const TilePlan& plan = args.tiles;
  KSHOT_DYNAMIC_SHARED(unsigned char, shared);
  T* tile = reinterpret_cast<T*>(shared);
  float* block_taps = reinterpret_cast<float*>(tile + Link::kTiles * plan.source.elements);
  constexpr int tap_count = Rows::kernel * Columns::kernel;
  float* values = block_taps + plan.block.channels * tap_pitch(tap_count);
  T* held =
      args.holds_dictionary ? reinterpret_cast<T*>(values + Link::kValues * plan.block.channels) : nullptr;

  const int channel_block = static_cast<int>(blockIdx.x % static_cast<unsigned>(plan.channel_blocks));
  const int tile_and_samples = static_cast<int>(blockIdx.x / static_cast<unsigned>(plan.channel_blocks));
  const int tiles = plan.tiles(), samples = tile_and_samples / tiles, tile_index = tile_and_samples % tiles;
  const int tile_row = tile_index / plan.width.tiles, tile_column = tile_index % plan.width.tiles;
  const int first_channel = channel_block * plan.block.channels;
  const Lane lane = lane_of_thread<channels_last>(plan.block);
  const int channel = first_channel + lane.channel * lanes;

  const ImageStrides<channels_last> strides(plan.channels, plan.height.target, plan.width.target);
  const int64_t source_sample =
      static_cast<int64_t>(plan.height.source) * plan.width.source * plan.source_stride;
  const int64_t target_sample = static_cast<int64_t>(plan.height.target) * plan.width.target * plan.channels;
  const int first_row = plan.height.target_origin + tile_row * plan.height.tile;
  const int first_column = plan.width.target_origin + tile_column * plan.width.tile;
  const int groups = plan.groups();

  const DictionaryPart<T> part{args.weight, first_channel, plan.block.channels, plan.channels, tap_count};
  Link link(args, shared, values, first_channel);
  const int64_t begin = static_cast<int64_t>(samples) * args.samples_per_block;
  const int64_t end = min(begin + args.samples_per_block, plan.batch);
  for (int64_t n = begin; n < end; ++n) {
    const TilePlace place = source_place(plan, tile_row, tile_column, first_channel);
    fill_tile<T, channels_last>(tile, plan.source, plan.block,
                                static_cast<const T*>(args.source) + n * source_sample, place);
    link.fill(tile, n * source_sample, place);
    __pipeline_commit();
    if (n == begin && held != nullptr) {
      hold_dictionary(held, part);
      __syncthreads();
    }
    if (n == begin || varies_by_sample(args.weight)) mix_taps(block_taps, part, held, n, args.turned);
    link.prepare(n, n == begin);
    __pipeline_wait_prior(0);
    link.map(tile, place);
    __syncthreads();

    if (channel < plan.channels) {
      const float* own_taps = block_taps + lane.channel * lanes * tap_pitch(tap_count);
      ThreadTaps<tap_count, lanes, Link::kTapsInRegisters> taps(own_taps);
      float bias[lanes];
#pragma unroll
      for (int v = 0; v < lanes; ++v) {
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
        const GroupBounds<Rows::size, Columns::size> bounds(
            first_row + row.target, first_column + column.target, plan.height, plan.width);
        const T* from =
            first_source + row.held * plan.source.row_pitch + column.held * plan.source.column_pitch;
        const int row_step = plan.height.source_step * plan.source.row_pitch,
                  column_step = plan.width.source_step * plan.source.column_pitch;
        if constexpr (Link::kBackward) {
          link.template group<T, Rows, Columns>(own_taps, from, row_step, column_step, bounds,
                                                n * target_sample + channel, strides, lane.channel);
        } else {
          float sums[Rows::size][Columns::size][lanes];
#pragma unroll
          for (int i = 0; i < Rows::size; ++i) {
#pragma unroll
            for (int j = 0; j < Columns::size; ++j) {
#pragma unroll
              for (int v = 0; v < lanes; ++v) sums[i][j][v] = bias[v];
            }
          }
          gather_group<Rows, Columns, lanes>(sums, taps, from, row_step, column_step,
                                             [](int, int, int, int, float) {});
          link.add(sums, bounds);
          store_group(sums, target, bounds, strides.row, strides.column, args.whole_lanes,
                      plan.channels - channel);
        }
      }
    }
    __syncthreads();  // before the tile and the taps of the next sample
  }
  link.finish(lane, channel, tile_and_samples);
}

}  // namespace
}  // namespace kshot::cuda
