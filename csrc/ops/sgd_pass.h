// The one pass of sgd_update over weights and momenta; ops/sgd_pass.cpp for the CPU, ops_cuda/sgd_pass.cpp
// for CUDA.
#pragma once

#include "common/sgd_update.h"
#include "ops/tensor_utils.h"

namespace kshot {

// `weight`: the tensor behind args.weight.
void run_sgd_update(const SgdUpdate& args, const Tensor& weight);

}  // namespace kshot
