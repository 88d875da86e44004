#include "schedule.h"

#include "emulation/error.h"

namespace emulation {

Schedule& schedule() {
  static Schedule schedule;
  return schedule;
}

void set_schedule(const std::string& order, uint64_t seed, int64_t shift) {
  if (order == "forward") {
    schedule().order = Order::kForward;
  } else if (order == "reverse") {
    schedule().order = Order::kReverse;
  } else if (order == "random") {
    schedule().order = Order::kRandom;
  } else {
    throw Error("no such order: " + order);
  }
  schedule().seed = seed;
  schedule().shift = shift;
}

}  // namespace emulation
