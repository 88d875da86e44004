// Stands in for CUDA's header of float16.
#pragma once

#include "emulation/narrow_types.h"

using __half = emulation::Narrow<emulation::Float16Format>;
using __half2 = emulation::NarrowPair<emulation::Float16Format>;
using half = __half;
using half2 = __half2;

KSHOT_EMULATION_NARROW(__half, __half2, half, half2)

inline __half2 make_half2(__half x, __half y) {
  return {x, y};
}
