// How the tiled kernels of depthwise convolution cut a problem, decided on the host: which geometries they
// take, tile sizes, threads.
//
// Of the tiles that fit in shared memory the one is taken that costs least: bytes read and written, with the
// margins of the tiles but without what lies outside of the image, and a lesser price on targets computed in
// vain and on too few blocks for a large device. Candidates are few, so that a launch stays cheap.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>

#include "cuda/depthwise_conv2d.h"
#include "cuda/depthwise_tile_plan.h"

namespace kshot::cuda {

constexpr int64_t kSharedBytes = 48 << 10;  // of a block: two blocks fit on every device
constexpr int64_t kManyBlocks = 264;        // two for each multiprocessor of a large device

inline int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}
inline int log2_ceil(int64_t value) {
  int log2 = 0;
  while ((int64_t{1} << log2) < value) ++log2;
  return log2;
}
inline int64_t modulo(int64_t a, int64_t b) {
  return (a % b + b) % b;
}

// One axis of a gather from source to target. Forward, target o and tap k meet at source o * stride - padding
// + k * dilation; transposed, target u and tap k meet at the source o for which u + padding = o * stride + k.
struct GatherAxis {
  int64_t source, target, kernel, stride, padding, dilation;
  bool transposed;

  // Sources from target to target where neighbouring targets of a thread are target_step() apart.
  int64_t window_stride() const { return stride / std::gcd(stride, dilation); }
  int64_t target_step() const { return dilation / std::gcd(stride, dilation); }
};

inline GatherAxis forward_axis(const ConvAxis& axis) {
  return {axis.input, axis.output, axis.kernel, axis.stride, axis.padding, axis.dilation, false};
}

// The gradient of the input; with a stride of 1 it is a convolution by the kernel from its last tap to its
// first (`turned`).
inline GatherAxis input_gradient_axis(const ConvAxis& axis, bool turned) {
  const int64_t reach = axis.dilation * (axis.kernel - 1);
  return {axis.output,   axis.input, axis.kernel, axis.stride, turned ? reach - axis.padding : axis.padding,
          axis.dilation, !turned};
}

// The kernel and the stride that the tiled kernels are compiled for, where they take these axes.
struct WindowShape {
  int kernel, stride;
  bool transposed;
};

inline std::optional<WindowShape> window_of(const GatherAxis& height, const GatherAxis& width) {
  const int64_t kernel = height.kernel, stride = height.window_stride();
  const bool dilated = height.dilation > 1 || width.dilation > 1;
  if (kernel != width.kernel || stride != width.window_stride() || stride > 2 || kernel > 7 || kernel < 3 ||
      kernel % 2 == 0 || height.transposed != width.transposed || (height.transposed && dilated)) {
    return std::nullopt;
  }
  return WindowShape{static_cast<int>(kernel), static_cast<int>(stride), height.transposed};
}

// Channels of a thread in channels_last: two of a 16-bit type share their loads and stores, but with kernels
// beyond 3x3 their taps would take too many registers.
constexpr int lanes_of_thread(int64_t element_bytes, int64_t kernel) {
  return element_bytes == 2 && kernel == 3 ? 2 : 1;
}

// Tiles of `tile` targets along an axis, by threads that take `size` of them.
inline TileAxis tile_axis(const GatherAxis& axis, int64_t tile, int64_t size) {
  const int64_t reach = axis.dilation * (axis.kernel - 1);
  int64_t target_origin = 0, source_origin = -axis.padding, advance = axis.stride,
          held = (tile - 1) * axis.stride + reach + 1,
          group_advance = size * axis.target_step() * axis.stride;
  if (axis.transposed) {  // groups start where a source meets the first tap
    target_origin = -modulo(axis.padding, axis.stride);
    source_origin = (target_origin + axis.padding) / axis.stride - reach / axis.stride;
    held = tile / axis.stride + reach / axis.stride;
    group_advance = size / axis.stride;
  }
  TileAxis result{};
  result.source = static_cast<int>(axis.source);
  result.target = static_cast<int>(axis.target);
  result.tile = static_cast<int>(tile);
  result.tiles = static_cast<int>(ceil_div(axis.target - target_origin, tile));
  result.held = static_cast<int>(held);
  result.target_origin = static_cast<int>(target_origin);
  result.source_origin = static_cast<int>(source_origin);
  result.source_advance = static_cast<int>(axis.transposed ? tile / axis.stride : tile * axis.stride);
  result.target_step = static_cast<int>(axis.transposed ? 1 : axis.target_step());
  result.source_step = static_cast<int>(axis.transposed ? 1 : axis.dilation);
  result.group_advance = static_cast<int>(group_advance);
  result.interleave_advance = static_cast<int>(advance);
  return result;
}

// Sources inside of the axis, over all tiles.
inline int64_t sources_read(const TileAxis& axis) {
  int64_t sum = 0;
  for (int64_t t = 0; t < axis.tiles; ++t) {
    const int64_t begin = axis.source_origin + t * axis.source_advance, end = begin + axis.held;
    sum += std::max<int64_t>(0, std::min<int64_t>(end, axis.source) - std::max<int64_t>(begin, 0));
  }
  return sum;
}

// What is to be cut.
struct TileRequest {
  Layout layout;
  int64_t batch, channels;
  GatherAxis height, width;
  int element_bytes;
  int rows, columns;   // targets of a thread's group
  int lanes;           // channels of a thread
  bool holds_target;   // whether the target tile is held as well
  int64_t sums;        // floats held for each channel
  int64_t dictionary;  // elements that a block reads for each channel to mix its taps
  Pixels<void> source, target;
  int source_tiles = 1;      // held: two where another image comes along with the source
  bool few_margins = false;  // whether margins cost more than lines of half a warp's channels
};

// The largest copy of up to 16 bytes that `elements` in a row and the address allow.
inline int piece_bytes(int64_t elements, int element_bytes, const void* address) {
  int bytes = 16;
  while (bytes > element_bytes &&
         (elements * element_bytes % bytes != 0 || reinterpret_cast<uintptr_t>(address) % bytes != 0)) {
    bytes /= 2;
  }
  return bytes;
}

inline HeldTile held_tile(Layout layout, int64_t rows, int64_t columns, const BlockShape& block,
                          int element_bytes) {
  const int64_t per_piece = block.piece_bytes / element_bytes;
  int64_t row_pitch = columns * block.channels, column_pitch = block.channels, channel_pitch = 1,
          elements = rows * row_pitch;
  if (layout == Layout::kContiguous) {
    row_pitch = columns;
    column_pitch = 1;
    channel_pitch = rows * columns;
    // Fewer lanes than a warp for a channel: its neighbours' lanes shall meet other banks.
    const int64_t lanes_bytes = int64_t{4} << block.position_lanes_log2;
    while (lanes_bytes < 128 && channel_pitch * element_bytes / 4 * 4 % (2 * lanes_bytes) != lanes_bytes) {
      channel_pitch += per_piece;
    }
    elements = block.channels * channel_pitch;
  }
  return {static_cast<int>(rows),
          static_cast<int>(columns),
          static_cast<int>(row_pitch),
          static_cast<int>(column_pitch),
          static_cast<int>(channel_pitch),
          static_cast<int>(row_pitch / per_piece),
          static_cast<int>(round_up(elements, 16 / element_bytes)),
          FastDivisor(static_cast<int>(rows))};
}

// Bytes of shared memory for the tiles and for `sums` floats of each channel.
inline int64_t shared_bytes(const TilePlan& plan, int element_bytes, int64_t sums, int source_tiles = 1) {
  return (int64_t{source_tiles} * plan.source.elements + plan.target.elements) * element_bytes +
         static_cast<int64_t>(plan.block.channels) * sums * static_cast<int64_t>(sizeof(float));
}

// Tiles of the given sizes, by blocks of 1 << channel_lanes_log2 lanes of channels (channels_last), or by as
// many as find room beside the lanes of a tile's positions.
inline TilePlan plan_of_tile(const TileRequest& request, TileAxis height, TileAxis width,
                             int channel_lanes_log2) {
  TilePlan plan{};
  plan.batch = request.batch;
  plan.channels = static_cast<int>(request.channels);
  plan.source_stride = request.source.stride;
  plan.target_stride = request.target.stride;
  plan.row_groups = height.tile / request.rows;
  plan.column_groups = FastDivisor(width.tile / request.columns);
  const bool channels_last = request.layout == Layout::kChannelsLast;
  const int groups_log2 = log2_ceil(plan.groups()), most_log2 = log2_ceil(kMostThreads);
  BlockShape& block = plan.block;
  const auto piece_of = [&](const Pixels<void>& image, int64_t elements) {
    const int64_t row = channels_last ? std::gcd(elements, image.stride) : elements;
    return piece_bytes(row, request.element_bytes, image.data);
  };
  const auto piece = [&](int64_t elements) {
    return std::min(piece_of(request.source, elements),
                    request.holds_target ? piece_of(request.target, elements) : 16);
  };
  if (channels_last) {
    block.channel_lanes_log2 = channel_lanes_log2;
    block.position_lanes_log2 = std::min(most_log2 - channel_lanes_log2, std::max(1, groups_log2));
    block.row_lanes_log2 = 5;
    block.piece_bytes = piece(request.channels);
  } else {
    block.position_lanes_log2 = std::min(most_log2, std::max(3, groups_log2));
    block.channel_lanes_log2 =
        std::min(std::max(0, 7 - block.position_lanes_log2), log2_ceil(request.channels));
    if (block.position_lanes_log2 + block.channel_lanes_log2 < 5) {
      block.channel_lanes_log2 = 5 - block.position_lanes_log2;
    }
    block.piece_bytes = piece(width.source);
    if (width.tiles > 1) block.piece_bytes = std::min(block.piece_bytes, piece(width.source_advance));
    if (request.holds_target) {
      block.piece_bytes = std::min(block.piece_bytes, piece(width.target));
      if (width.tiles > 1) block.piece_bytes = std::min(block.piece_bytes, piece(width.tile));
    }
    const int64_t per_piece = block.piece_bytes / request.element_bytes,
                  shift = modulo(width.source_origin, per_piece);
    width.source_origin -= static_cast<int>(shift);
    width.first_held += static_cast<int>(shift);
    width.held = static_cast<int>(round_up(width.held + shift, per_piece));
    block.row_lanes_log2 = std::min(5, log2_ceil(width.held / per_piece));
  }
  block.threads = 1 << (block.channel_lanes_log2 + block.position_lanes_log2);
  block.channels = request.lanes << block.channel_lanes_log2;
  plan.channel_blocks = static_cast<int>(ceil_div(request.channels, block.channels));
  plan.height = height;
  plan.width = width;
  plan.source = held_tile(request.layout, height.held, width.held, block, request.element_bytes);
  if (request.holds_target) {
    const int64_t columns = channels_last ? width.tile : round_up(width.tile, 16 / request.element_bytes);
    plan.target = held_tile(request.layout, height.tile, columns, block, request.element_bytes);
  }
  return plan;
}

// The cost of a plan, in reads and writes of elements per sample and channel. Those of the dictionary count
// half, since the second cache has it after the first of them.
inline double cost_of(const TileRequest& request, const TilePlan& plan) {
  const double targets = static_cast<double>(plan.height.target) * plan.width.target,
               reads = static_cast<double>(sources_read(plan.height)) *
                       static_cast<double>(sources_read(plan.width));
  const double threads =
      static_cast<double>(plan.block.channels) * plan.channel_blocks / plan.channels *
      (static_cast<double>(int64_t{1} << plan.block.position_lanes_log2) *
       static_cast<double>(ceil_div(plan.groups(), int64_t{1} << plan.block.position_lanes_log2)) *
       request.rows * request.columns * plan.tiles());
  const double blocks = static_cast<double>(request.batch) * plan.channel_blocks * plan.tiles();
  const double idle = std::max(0.0, static_cast<double>(kManyBlocks) / blocks - 1);
  // Half a warp of channels: two groups of a warp meet in the banks, and lines of memory are shorter.
  const bool narrow =
      !request.few_margins && request.layout == Layout::kChannelsLast && plan.block.channel_lanes_log2 < 5;
  const double dictionary = 0.5 * static_cast<double>(request.dictionary) * plan.tiles();
  return (reads + targets + dictionary) * (1 + 0.1 * std::min(idle, 5.0)) * (narrow ? 1.1 : 1.0) +
         threads * (narrow ? 0.25 : 0.15);
}

// The best plan, or none where no tile fits.
inline std::optional<TilePlan> plan_tiles(const TileRequest& request) {
  const bool channels_last = request.layout == Layout::kChannelsLast;
  const int64_t row_unit = request.rows * (request.height.transposed ? 1 : request.height.target_step()),
                column_unit = request.columns * (request.width.transposed ? 1 : request.width.target_step());
  std::optional<TilePlan> best;
  double best_cost = 0;
  const auto consider = [&](int64_t rows, int64_t columns, int channel_lanes_log2) {
    const TilePlan plan =
        plan_of_tile(request, tile_axis(request.height, rows, request.rows),
                     tile_axis(request.width, columns, request.columns), channel_lanes_log2);
    if (shared_bytes(plan, request.element_bytes, request.sums, request.source_tiles) > kSharedBytes) return;
    const double cost = cost_of(request, plan);
    if (best && cost >= best_cost) return;
    best = plan;
    best_cost = cost;
  };
  const auto units = [](const GatherAxis& axis, int64_t unit) {
    const int64_t ahead = axis.transposed ? modulo(axis.padding, axis.stride) : 0;  // as in tile_axis
    return ceil_div(axis.target + ahead, unit);
  };
  const int64_t row_units = units(request.height, row_unit), column_units = units(request.width, column_unit);
  for (const int64_t r : {1, 2, 3, 4, 5, 6, 7, 8}) {
    if (r > row_units) break;
    if (channels_last) {
      for (const int64_t c : {1, 2, 3, 4, 5, 6, 7, 8}) {
        if (c > column_units) break;
        for (const int lanes_log2 : {5, 4}) consider(r * row_unit, c * column_unit, lanes_log2);
      }
    } else {
      for (const int64_t parts : {1, 2, 3, 4, 6, 8, 16}) {
        if (parts > column_units) break;
        consider(r * row_unit, ceil_div(column_units, parts) * column_unit, 0);
      }
    }
  }
  return best;
}

// As many samples to a block as make `elements`, what it moves for each channel beside its tiles (of the
// dictionary, say), an eighth of what it moves of these, or a quarter where fewer blocks than multiprocessors
// are left (half of them at least).
inline int64_t samples_per_block(const TilePlan& plan, int64_t elements) {
  const int64_t beside = elements * plan.tiles(), images = int64_t{plan.height.source} * plan.width.source +
                                                           int64_t{plan.height.target} * plan.width.target;
  const auto too_few = [&](int64_t samples) {
    const int64_t blocks = ceil_div(plan.batch, 2 * samples) * plan.channel_blocks * plan.tiles();
    if (blocks < kManyBlocks / 5) return false;
    return beside * (blocks < kManyBlocks / 2 ? 4 : 8) > samples * images;
  };
  int64_t samples = 1;
  while (samples < plan.batch && too_few(samples)) samples *= 2;
  return ceil_div(plan.batch, ceil_div(plan.batch, samples));
}

// How blocks of a gather go through samples.
struct SampleShare {
  int samples;            // of a block
  bool holds_dictionary;  // whether a block holds its share of the dictionary for them
  int64_t shared;         // bytes of shared memory
};

// `shared`: bytes without the dictionary, which is worth holding for samples with taps of their own.
inline SampleShare share_samples(const TilePlan& plan, int64_t elements, int64_t dictionary_bytes,
                                 bool varies, int64_t shared) {
  const int64_t samples = samples_per_block(plan, elements);
  if (!varies || samples <= 1) return {static_cast<int>(samples), false, shared};
  if (shared + dictionary_bytes > kSharedBytes) return {1, false, shared};
  return {static_cast<int>(samples), true, shared + dictionary_bytes};
}

}  // namespace kshot::cuda
