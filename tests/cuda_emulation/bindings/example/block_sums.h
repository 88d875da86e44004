// The example of the emulator's README: arguments and launch function, free of CUDA's types.
#pragma once

#include <cstdint>

namespace example {

constexpr int kBlockSumThreads = 256;

struct BlockSums {
  const float* values;
  float* sums;  // one for each kBlockSumThreads values
  int64_t size;
};

inline int64_t block_sums_blocks(int64_t size) {
  return (size + kBlockSumThreads - 1) / kBlockSumThreads;
}

void block_sums(const BlockSums& arguments, void* stream);

}  // namespace example
