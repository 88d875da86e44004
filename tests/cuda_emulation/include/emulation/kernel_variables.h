// The variables that every CUDA thread sees with values of its own. The scheduler sets them at each switch.
#pragma once

#include "emulation/vector_types.h"

#pragma GCC visibility push(hidden)
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
#pragma GCC visibility pop

constexpr int warpSize = 32;
