// Barriers and the primitives of warps, on the machine's meetings.
#include "emulation/barriers.h"

#include "emulation/atomics.h"
#include "emulation/warp_primitives.h"
#include "machine.h"

namespace emulation {
namespace {

void check_running(const char* name) {
  if (!machine().running()) fail(std::string(name) + " outside of a kernel");
}

struct ShuffleOperand {
  Shuffle kind;
  uint64_t bits;  // given, then received
  uint64_t received;
  int operand, width;
};

// The lane that `lane` reads from: its own where the other is beyond its segment.
int source_lane(int lane, const ShuffleOperand& operand) {
  const int first = lane & ~(operand.width - 1), last = first + operand.width - 1;
  switch (operand.kind) {
    case Shuffle::kIndex:
      return first + (operand.operand & (operand.width - 1));
    case Shuffle::kUp:
      return lane - operand.operand < first ? lane : lane - operand.operand;
    case Shuffle::kDown:
      return lane + operand.operand > last ? lane : lane + operand.operand;
    default:
      return (lane ^ operand.operand) > last ? lane : lane ^ operand.operand;
  }
}

void complete_shuffle(void* const* operands, unsigned lanes) {
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if (!(lanes >> lane & 1u)) continue;
    auto& operand = *static_cast<ShuffleOperand*>(operands[lane]);
    const int source = source_lane(lane, operand);
    if (!(lanes >> source & 1u)) {
      fail("a shuffle reads from lane " + std::to_string(source) + ", which the mask leaves out\n" +
           machine().whereabouts());
    }
    operand.received = static_cast<ShuffleOperand*>(operands[source])->bits;
  }
}

struct BallotOperand {
  bool predicate;
  unsigned result;
};

void complete_ballot(void* const* operands, unsigned lanes) {
  unsigned result = 0;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if (lanes >> lane & 1u) {
      result |= static_cast<unsigned>(static_cast<BallotOperand*>(operands[lane])->predicate) << lane;
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if (lanes >> lane & 1u) static_cast<BallotOperand*>(operands[lane])->result = result;
  }
}

const char* name_of(Shuffle kind) {
  constexpr const char* kNames[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  return kNames[static_cast<int>(kind)];
}

}  // namespace

Votes wait_for_block(const char* name, bool predicate, Site site) {
  check_running(name);
  return machine().wait_for_block(name, predicate, site);
}

void wait_for_warp(unsigned mask, Site site) {
  check_running("__syncwarp");
  machine().meet("__syncwarp", mask, site, nullptr, nullptr, true, true);
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int operand, int width, Site site) {
  check_running(name_of(kind));
  if (width < 1 || width > kWarpLanes || (width & (width - 1))) {
    fail("a shuffle of width " + std::to_string(width) + " at " + site.file + ":" +
         std::to_string(site.line));
  }
  ShuffleOperand mine{kind, bits, 0, operand, width};
  machine().meet(name_of(kind), mask, site, &mine, &complete_shuffle, false, false);
  return mine.received;
}

unsigned ballot(const char* name, unsigned mask, bool predicate, Site site) {
  check_running(name);
  BallotOperand mine{predicate, 0};
  machine().meet(name, mask, site, &mine, &complete_ballot, false, false);
  return mine.result;
}

void check_atomic(const void* address, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) {
    fail("misaligned atomic operation at " + std::string(site.file) + ":" + std::to_string(site.line));
  }
}

void refuse_float_atomic(Site site) {
  fail("atomic addition of floating-point numbers, whose order is not fixed, at " + std::string(site.file) +
       ":" + std::to_string(site.line));
}

}  // namespace emulation
