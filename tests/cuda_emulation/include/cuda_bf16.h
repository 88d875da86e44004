// Stands in for CUDA's header of bfloat16.
#pragma once

#include "emulation/narrow_types.h"

using __nv_bfloat16 = emulation::Narrow<emulation::BFloat16Format>;
using __nv_bfloat162 = emulation::NarrowPair<emulation::BFloat16Format>;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

KSHOT_EMULATION_NARROW(__nv_bfloat16, __nv_bfloat162, bfloat16, bfloat162)

inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) {
  return {x, y};
}
