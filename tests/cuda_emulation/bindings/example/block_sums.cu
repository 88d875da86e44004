#include "block_sums.cuh"

namespace example {

void block_sums(const BlockSums& arguments, void* stream) {
  const auto blocks = static_cast<unsigned>(block_sums_blocks(arguments.size));
  if (blocks == 0) return;
  KSHOT_LAUNCH(block_sums_kernel, blocks, kBlockSumThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

}  // namespace example
