// The product that gathers its left operand, forward and for the gradient of the input; see dense_conv2d.cpp.
//
//                      panel: up to kMostVectors vectors of channels c
//                 r  [ ========= ]      (t, r) runs over taps and source channels; panels stay in L1 or L2
//     rows of   [..] [ sums      ]
//     targets   [..] [ in        ]      up to kMostRows targets: one broadcast of source[g at t, r] feeds
//     g at t    [..] [ registers ]      all vectors
//
// Where a tap lies outside the image for some targets of a tile, these read a row of zeros, and their sums of
// before are put back: zero times an infinite weight would be NaN.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "cpu/activation_values.h"
#include "cpu/dense_conv2d.h"
#include "cpu/dense_tiles.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

using SourceRows = std::array<const float*, kMostRows>;

// What a tap reads for the targets of a tile.
struct GatherTap {
  int64_t index;
  uint32_t outside;  // bit m: not in the image for target m
  SourceRows rows;
};

struct GatherTile {
  size_t first_tap, taps;
  std::array<float*, kMostRows> targets;
};

// Where a block of targets reads and writes, tile by tile; taps that no target of a tile uses are left out.
class Block {
 public:
  explicit Block(const DenseGather& args)
      : args_(args), zeros_(static_cast<size_t>(args.source_channels), 0.0f) {}

  // Targets [begin, begin + count) of the flat list, in tiles of `most` rows.
  template <int most>
  void place(int64_t begin, int64_t count) {
    sample_ = begin / args_.plan->places();
    place_ = begin % args_.plan->places();
    taps_.clear();
    tiles_.clear();
    for_each_tile<most>(count, [&](auto rows, int64_t) { add_tile(rows); });
  }

  const GatherTile& tile(size_t index) const { return tiles_[index]; }

  const GatherTap* taps(const GatherTile& tile) const { return taps_.data() + tile.first_tap; }

  // The rows that the next tile reads, or null if they are not worth asking for: sources that several taps
  // read come by themselves.
  const SourceRows* rows_after(size_t tile) const {
    if (args_.plan->taps > 1 || tile + 1 == tiles_.size() || tiles_[tile + 1].taps == 0) return nullptr;
    return &taps_[tiles_[tile + 1].first_tap].rows;
  }

 private:
  // The next `rows` targets.
  void add_tile(int rows) {
    const GatherPlan& plan = *args_.plan;
    SourceRows sources;
    std::array<const int32_t*, kMostRows> pixels;
    GatherTile tile{taps_.size(), 0, {}};
    for (int m = 0; m < rows; ++m) {
      sources[m] = args_.source.data + sample_ * plan.source_pixels * args_.source.stride;
      pixels[m] = plan.source.data() + place_ * plan.taps;
      tile.targets[m] = args_.target + (sample_ * plan.places() + plan.target[static_cast<size_t>(place_)]) *
                                           args_.target_channels;
      if (++place_ == plan.places()) ++sample_, place_ = 0;
    }
    for (int64_t t = 0; t < plan.taps; ++t) {
      GatherTap tap{t, 0, {}};
      tap.rows.fill(zeros_.data());
      for (int m = 0; m < rows; ++m) {
        const int64_t pixel = pixels[m][t];
        if (pixel >= 0) {
          tap.rows[m] = sources[m] + pixel * args_.source.stride;
        } else {
          tap.outside |= 1u << m;
        }
      }
      if (tap.outside + 1 != 1u << rows) taps_.push_back(tap);
    }
    tile.taps = taps_.size() - tile.first_tap;
    tiles_.push_back(tile);
  }

  const DenseGather& args_;
  std::vector<float> zeros_;
  std::vector<GatherTap> taps_;
  std::vector<GatherTile> tiles_;
  int64_t sample_ = 0, place_ = 0;  // of the next target
};

// sums += source rows * panel rows, over one tap; the lines of the rows `ahead` are asked for meanwhile
template <int rows, int vectors>
inline void multiply_tap(V (&sums)[rows][vectors], const SourceRows& sources, const SourceRows& ahead,
                         const float* panel, int64_t panel_width, int64_t depth) {
  const float* source[rows];
  for (int m = 0; m < rows; ++m) source[m] = sources[m];
  for (int64_t from = 0; from < depth; from += kLine) {
    for (int m = 0; m < rows; ++m) __builtin_prefetch(ahead[m] + from, 0, 2);
    const int64_t to = std::min(from + kLine, depth);
    for (int64_t r = from; r < to; ++r, panel += panel_width) {
      V right[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) right[v] = load(panel + v * kVector);
#pragma GCC unroll 12
      for (int m = 0; m < rows; ++m) {
        const V left = splat(source[m][r]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[m][v] += left * right[v];
      }
    }
  }
}

__attribute__((noinline)) inline void activate_row(Activation activation, V* row, int vectors) {
  for (int v = 0; v < vectors; ++v) row[v] = activate<float>(activation, row[v]);
}

// Channels [channel, channel + width) of the targets of a tile.
struct TileChannels {
  const float* panel;
  int64_t panel_width, depth;
  const float* bias;
  int64_t channel, width;
  bool past_caches, accumulate;
  const SourceRows* next;  // rows to ask for meanwhile, or null
  int64_t ahead;           // or how far behind its own rows these lie; see DenseGather
  Activation activation;
  Bounds bounds;
};

// Activations that are more than bounds; row by row, as sums would leave their registers around the calls.
template <int rows, int vectors>
inline void store_activated(const GatherTile& tile, const TileChannels& channels,
                            const V (&sums)[rows][vectors]) {
#pragma GCC unroll 12
  for (int m = 0; m < rows; ++m) {
    V made[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) made[v] = sums[m][v];
    activate_row(channels.activation, made, vectors);
    store_row(tile.targets[m] + channels.channel, made, channels.width, channels.past_caches);
  }
}

template <int rows, int vectors>
__attribute__((noinline)) void gather_tile(const GatherTile& tile, const GatherTap* taps,
                                           const TileChannels& channels) {
  V start[vectors] = {};
  if (channels.bias) load_row(start, channels.bias + channels.channel, channels.width);
  V sums[rows][vectors];
#pragma GCC unroll 12
  for (int m = 0; m < rows; ++m) {
    if (channels.accumulate) load_row(start, tile.targets[m] + channels.channel, channels.width);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[m][v] = start[v];
  }
  V before[rows][vectors] = {};
  for (size_t t = 0; t < tile.taps; ++t) {
    const float* rows_of_tap = channels.panel + taps[t].index * channels.depth * channels.panel_width;
    const SourceRows* ahead = channels.next ? channels.next : &taps[t].rows;
    SourceRows moved;
    if (channels.ahead) {
      for (int m = 0; m < rows; ++m) moved[m] = taps[t].rows[m] + channels.ahead;
      ahead = &moved;
    }
    if (taps[t].outside) {
#pragma GCC unroll 12
      for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) before[m][v] = sums[m][v];
      }
    }
    multiply_tap<rows, vectors>(sums, taps[t].rows, *ahead, rows_of_tap, channels.panel_width,
                                channels.depth);
    if (!taps[t].outside) continue;
#pragma GCC unroll 12
    for (int m = 0; m < rows; ++m) {
      if (!(taps[t].outside >> m & 1)) continue;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[m][v] = before[m][v];
    }
  }
  if (channels.bounds.any) {
#pragma GCC unroll 12
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[m][v] = channels.bounds.of<float>(sums[m][v]);
    }
  } else if (channels.activation != Activation::kIdentity) {
    return store_activated<rows, vectors>(tile, channels, sums);
  }
#pragma GCC unroll 12
  for (int m = 0; m < rows; ++m) {
    store_row(tile.targets[m] + channels.channel, sums[m], channels.width, channels.past_caches);
  }
}

// Targets [begin, begin + rows) where each reads the source of its own place.
template <int rows>
void place_in_order(const DenseGather& args, int64_t begin, GatherTile& tile, GatherTap& tap) {
  const float* source = args.source.data + begin * args.source.stride;
  float* target = args.target + begin * args.target_channels;
  for (int m = 0; m < rows; ++m) {
    tap.rows[m] = source + m * args.source.stride;
    tile.targets[m] = target + m * args.target_channels;
  }
}

template <int panel_vectors>
void gather_range(const DenseGather& args, const PanelRange<const float*>& panels, const float* bias,
                  int64_t begin, int64_t end) {
  constexpr int kRows = rows_of(panel_vectors);
  // Panel by panel over few targets at a time: the sources of all of them stay in L1 or L2, and a panel that
  // is not too deep stays in L1 from tile to tile.
  constexpr int64_t kTargets = 48;
  const bool past_caches = args.past_caches && can_pass_caches(args.target, args.target_channels);
  const bool in_order = args.plan->in_order;
  Block block(args);
  GatherTile own{0, 1, {}};
  GatherTap own_tap{0, 0, {}};
  for (; begin < end; begin += kTargets) {
    const int64_t count = std::min(kTargets, end - begin);
    if (!in_order) block.place<kRows>(begin, count);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      size_t tile = 0;
      const int64_t channel = p * panels.width,
                    width = std::min(panels.width, args.target_channels - channel);
      const bool is_first = p == panels.begin;  // the others find the sources in the caches
      TileChannels channels{panels.of(p),
                            panels.width,
                            args.source_channels,
                            bias,
                            channel,
                            width,
                            past_caches,
                            args.accumulate,
                            nullptr,
                            is_first && args.plan->taps == 1 ? args.ahead : 0,
                            args.activation,
                            Bounds(args.activation)};
      with_vectors<panel_vectors>(width, [&](auto vectors) {
        for_each_tile<kRows>(count, [&](auto rows, int64_t first) {
          constexpr int kCount = decltype(rows)::value, kWidth = decltype(vectors)::value;
          if (in_order) {
            place_in_order<kCount>(args, begin + first, own, own_tap);
            if (is_first && !args.ahead) channels.ahead = kCount * args.source.stride;
            gather_tile<kCount, kWidth>(own, &own_tap, channels);
          } else {
            const GatherTile& placed = block.tile(tile);
            channels.next = is_first ? block.rows_after(tile) : nullptr;
            ++tile;
            gather_tile<kCount, kWidth>(placed, block.taps(placed), channels);
          }
        });
      });
    }
  }
  if (past_caches) finish_stores();
}

}  // namespace
}  // namespace kshot::cpu::KSHOT_ISA
