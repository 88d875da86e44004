// The passes of dtw_align; ops/alignment_pass.cpp for the CPU, ops_cuda/alignment_pass.cpp for CUDA.
#pragma once

#include "common/dtw_align.h"
#include "ops/tensor_utils.h"

namespace kshot {

// `like`: a tensor on the device of all operands. There is at least one pair.
void run_alignment(const DtwAlign& args, const Tensor& like);
void run_alignment_backward(const DtwAlignBackward& args, const Tensor& like);

}  // namespace kshot
