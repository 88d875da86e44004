// What one instruction makes a warp access, and what that costs.
#pragma once

#include <cstdint>

#include "traffic_counts.h"

namespace emulation {

struct WarpAccess {
  unsigned lanes = 0;
  uintptr_t address[32];
  uint16_t bytes[32] = {};
};

void count_global(const WarpAccess& access, InstructionCounts& counts);
void count_shared(const WarpAccess& access, InstructionCounts& counts);

}  // namespace emulation
