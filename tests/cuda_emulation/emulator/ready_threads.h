// The threads of a block that may run, and the choice of the next one.
//
// A warp runs on as long as one of its lanes can, so that it gets as far ahead of the others as the kernel's
// barriers let it: that is where a missing barrier shows. A random order leaves the warp now and then.
#pragma once

#include <cstdint>

#include "schedule.h"

namespace emulation {

class ReadyThreads {
 public:
  void reset(Order order, uint64_t seed) {
    *this = ReadyThreads();
    order_ = order;
    random_ = Random(seed);
  }

  void add(int warp, unsigned lanes) {
    if (lanes == 0) return;
    lanes_[warp] |= lanes;
    warps_ |= 1u << warp;
  }

  // Takes one out; its number in the block, or -1 where none is left.
  int take() {
    if (warps_ == 0) return -1;
    const bool stay = (warps_ >> warp_ & 1u) && (order_ != Order::kRandom || random_.below(8) != 0);
    if (!stay) warp_ = pick(warps_);
    const int lane = pick(lanes_[warp_]);
    lanes_[warp_] &= ~(1u << lane);
    if (lanes_[warp_] == 0) warps_ &= ~(1u << warp_);
    return warp_ * 32 + lane;
  }

 private:
  int pick(unsigned set) {
    if (order_ == Order::kForward) return __builtin_ctz(set);
    if (order_ == Order::kReverse) return 31 - __builtin_clz(set);
    for (uint32_t skip = random_.below(__builtin_popcount(set)); skip > 0; --skip) set &= set - 1;
    return __builtin_ctz(set);
  }

  Order order_ = Order::kForward;
  Random random_{0};
  unsigned lanes_[32] = {};
  unsigned warps_ = 0;
  int warp_ = 0;
};

}  // namespace emulation
