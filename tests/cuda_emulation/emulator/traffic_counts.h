// Counts of what a kernel's instructions moved, kept for each kernel and each instruction.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "emulation/error.h"

namespace emulation {

// One instruction, or one call of the emulator's own operations (an asynchronous copy, a matrix): these have
// a line, those an address in the module.
struct Instruction {
  uint64_t address;
  Site site;
  bool write, shared;
};

struct InstructionCounts {
  int64_t accesses = 0;                          // of a warp
  int64_t bytes = 0;                             // each once for an access
  int64_t sectors = 0, ideal_sectors = 0;        // of 32 bytes of global memory
  int64_t wavefronts = 0, ideal_wavefronts = 0;  // passes through the banks of shared memory
  int64_t worst_conflict = 0;                    // most passes for what one could do
};

struct KernelCounts {
  std::string name;
  int64_t launches = 0;
  int64_t unique_bytes[2] = {0, 0};   // read, written: of a launch, each byte once
  int64_t block_sectors[2] = {0, 0};  // read, written: of a block, each sector once
  std::map<uint64_t, std::pair<Instruction, InstructionCounts>> instructions;  // by key
};

using TrafficCounts = std::map<uint64_t, KernelCounts>;  // by the kernel's address in the module

std::string to_json(const TrafficCounts& counts);

}  // namespace emulation
