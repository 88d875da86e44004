// Alignment by dynamic time warping on the CPU; see dtw_align.cpp.
#pragma once

#include <atomic>

#include "common/dtw_align.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// Costs and paths of pairs [begin, end). Lengths are at least 1 and at most rows or columns.
KSHOT_DECLARE(void dtw_align(const DtwAlign& args, int64_t begin, int64_t end))

// Their gradients. A path that leaves its rectangle sets `astray`, and is followed no further.
KSHOT_DECLARE(void dtw_align_backward(const DtwAlignBackward& args, int64_t begin, int64_t end,
                                      std::atomic<bool>& astray))

}  // namespace kshot::cpu
