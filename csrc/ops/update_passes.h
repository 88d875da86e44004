// The one pass of an optimiser over weights and what it keeps of them; ops/update_passes.cpp for the CPU,
// ops_cuda/update_passes.cpp for CUDA.
#pragma once

#include <vector>

#include "common/adamw_update.h"
#include "common/sgd_update.h"
#include "ops/tensor_utils.h"

namespace kshot {

// `like`: a tensor on the device of all updates.
void run_adamw_update(const std::vector<AdamwUpdate>& updates, const Tensor& like);
void run_sgd_update(const std::vector<SgdUpdate>& updates, const Tensor& like);

}  // namespace kshot
