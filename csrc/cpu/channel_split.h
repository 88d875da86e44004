// Even and odd channels apart, and joined again: arguments of the kernels; see channel_split.cpp.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace kshot::cpu {

// `pairs` pairs of neighbouring channels in each pixel of a batch of images, and where their halves lie: pair
// i of pixel p at joined[p * 2 pairs + 2 i] and the element behind it, its even one at even[p * stride + i],
// its odd one at odd[p * stride + i]. Elements have 2, 4 or 8 bytes.
struct PairedChannels {
  int64_t bytes, pairs, stride;
  void *joined, *even, *odd;
};

// From `joined` to `even` and `odd`, pixels [begin, end).
KSHOT_DECLARE(void split_channels(const PairedChannels& channels, int64_t begin, int64_t end))

// From `even` and `odd` to `joined`.
KSHOT_DECLARE(void join_channels(const PairedChannels& channels, int64_t begin, int64_t end))

}  // namespace kshot::cpu
