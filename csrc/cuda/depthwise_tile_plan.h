// Tiles of an image: what the host decides and the kernels of depthwise convolution follow; device code in
// depthwise_tile.cuh, the choice of sizes in depthwise_plan.h.
#pragma once

#include "cuda/division.cuh"

namespace kshot::cuda {

constexpr int kMostThreads = 256;  // of a block

// How tiles lie along one axis of an image. Threads take groups of targets, target_step apart, that read
// source positions source_step apart: with a dilation, the targets of a group are those that share their
// sources.
struct TileAxis {
  int source, target;      // positions of the axis
  int tile, tiles;         // targets of a tile, number of tiles
  int held;                // source positions of a tile
  int target_origin;       // first target of the first tile: 0, or a little less to meet an alignment
  int source_origin;       // first source position that the first tile holds
  int source_advance;      // source positions from tile to tile
  int target_step;         // between the targets of a group: as many groups interleave
  int source_step;         // between the source positions that a group reads
  int first_held;          // where the first group of a tile starts to read
  int group_advance;       // source positions from one set of interleaved groups to the next
  int interleave_advance;  // source positions from a group to the one interleaved with it
};

// A tile as it lies in shared memory, in elements.
struct HeldTile {
  int rows, columns;
  int row_pitch, column_pitch, channel_pitch;
  int pieces;    // pieces of a row (of all channels, or of one)
  int elements;  // of the whole tile, a multiple of 16 bytes
  FastDivisor rows_divisor;
};

// How threads share the work: channel lanes times position lanes are the threads of a block.
struct BlockShape {
  int threads;
  int channel_lanes_log2, position_lanes_log2;
  int channels;        // of the block
  int piece_bytes;     // 16, 8, 4 or 2: what one copy moves
  int row_lanes_log2;  // threads that copy a row together
};

struct TilePlan {
  int64_t batch;
  int channels, channel_blocks;
  int64_t source_stride, target_stride;  // of the images' pixels, where they are held
  TileAxis height, width;
  int row_groups;             // groups of a tile along the height
  FastDivisor column_groups;  // and along the width
  HeldTile source, target;    // the target is held by gradients of the weight only
  BlockShape block;

  __host__ __device__ int tiles() const { return height.tiles * width.tiles; }
  __host__ __device__ int groups() const { return row_groups * column_groups.divisor(); }
};

}  // namespace kshot::cuda
