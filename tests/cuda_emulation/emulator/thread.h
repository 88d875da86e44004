// One CUDA thread: its fiber, who it is, and what it waits for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

#include "emulation/error.h"
#include "emulation/vector_types.h"
#include "fiber.h"

namespace emulation {

constexpr int kWarpLanes = 32;

struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes, zero_fill;
  uint64_t batch;
};

struct Thread {
  Fiber fiber;
  uint3 index;
  int linear, warp, lane;

  bool ended = false;
  const char* waits_in = nullptr;  // the operation, null while it runs or may run
  Site site{"", 0};
  unsigned mask = 0;  // of a warp's operation

  std::deque<AsyncCopy> copies;
  uint64_t batches = 0;  // committed so far
};

}  // namespace emulation
