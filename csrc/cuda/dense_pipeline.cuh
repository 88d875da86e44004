// The loop over the chunks of a reduction: copies of later chunks are under way while a tile multiplies.
//
// A loader brings one operand's chunks. `begin(chunk, to)` starts chunk's way into shared memory,
// `finish(to)` ends it after the products of an earlier chunk. If kMaps, `map(chunk, to)` changes what a
// thread has brought there, once it has landed. kLead says how many chunks ahead it begins, kBuffers how many
// chunks shared memory holds: one more than that, so that one barrier a chunk is enough. At the barrier of
// chunk c all threads are past the products of chunk c - 1, whose buffer chunk c + kLead overwrites.
#pragma once

#include "cuda/dense_tile.cuh"

namespace kshot::cuda {
namespace {

// Chunks of asynchronous copies under way, and the buffers that this takes.
constexpr int kCopyLead = 2, kCopyBuffers = kCopyLead + 1;

// Of copies to shared memory. One of 8 bytes touches the sectors that two of 4 do; its code in the loop over
// chunks would take registers, and with them a block of a multiprocessor.
using CopyWidths = AccessWidths<kVectorBytes, 4, 2>;

// Starts a copy to shared memory of `bytes` at `from`, or of zeros; `from` may be read either way. Elements
// of two bytes are too small for asynchronous copies.
template <int bytes>
__device__ __forceinline__ void copy_or_clear(void* to, const void* from, bool inside) {
  if constexpr (bytes >= 4) {
    __pipeline_memcpy_async(to, from, bytes, inside ? 0 : bytes);
  } else {
    *static_cast<uint16_t*>(to) = inside ? *static_cast<const uint16_t*>(from) : uint16_t{0};
  }
}

// Copies in a row of a loop that makes copies of this width. Asynchronous ones need no company, and the
// narrow ones of odd channels are worth little code; others wait for memory, so several at a time.
template <int bytes>
constexpr int kCopiesInARow = bytes == kVectorBytes ? 4
                              : bytes == 2          ? 2
                                                    : 1;

template <class Tile, class LeftLoader, class RightLoader>
__device__ __forceinline__ void accumulate(Tile& tile, int chunks, LeftLoader& left_loader,
                                           RightLoader& right_loader, typename Tile::T* left,
                                           typename Tile::T* right) {
  static_assert(LeftLoader::kLead == kCopyLead, "the left operand sets the pace");
  const auto left_of = [&](int chunk) { return left + chunk % LeftLoader::kBuffers * Tile::Left::kSize; };
  const auto right_of = [&](int chunk) { return right + chunk % RightLoader::kBuffers * Tile::Right::kSize; };
  // The first steps only begin, so that the code of the loaders is there once.
#pragma unroll 1
  for (int chunk = -kCopyLead; chunk < chunks; ++chunk) {
    if (chunk >= 0) {
      __pipeline_wait_prior(kCopyLead - 1);
      if constexpr (LeftLoader::kMaps) left_loader.map(chunk, left_of(chunk));
      if constexpr (RightLoader::kMaps) right_loader.map(chunk, right_of(chunk));
      __syncthreads();
    }
    const int left_next = chunk + LeftLoader::kLead, right_next = chunk + RightLoader::kLead;
    const bool has_right = right_next >= 0 && right_next < chunks;
    if (left_next < chunks) left_loader.begin(left_next, left_of(left_next));
    if (has_right) right_loader.begin(right_next, right_of(right_next));
    __pipeline_commit();
    if (chunk >= 0) tile.multiply(left_of(chunk), right_of(chunk));
    if (has_right) right_loader.finish(right_of(right_next));
  }
  __pipeline_wait_prior(0);
}

}  // namespace
}  // namespace kshot::cuda
