// Alignment by dynamic time warping and its gradient: launch functions; see dtw_align.cuh.
#pragma once

#include <cstdint>

#include "common/dtw_align.h"

namespace kshot::cuda {

// Bytes of scratch memory that dtw_align needs, aligned to 16.
int64_t dtw_align_workspace(const DtwAlign& args);

// Pairs whose lengths are out of range get a cost of NaN and no path.
void dtw_align(const DtwAlign& args, void* workspace, void* stream);

// What of a path lies outside of its rectangle is left out.
void dtw_align_backward(const DtwAlignBackward& args, void* stream);

}  // namespace kshot::cuda
