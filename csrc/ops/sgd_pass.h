// The one pass of sgd_update over weights and momenta; ops/sgd_pass.cpp for the CPU, ops_cuda/sgd_pass.cpp
// for CUDA.
#pragma once

#include <vector>

#include "common/sgd_update.h"
#include "ops/tensor_utils.h"

namespace kshot {

// `like`: a tensor on the device of all updates.
void run_sgd_update(const std::vector<SgdUpdate>& updates, const Tensor& like);

}  // namespace kshot
