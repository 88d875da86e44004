#include "emulation/control.h"

#include "emulation/error.h"
#include "schedule.h"

namespace emulation {

void set_budget(uint64_t switches, int seconds) {
  schedule().most_switches = switches;
  schedule().most_seconds = seconds;
}

#if !defined(KSHOT_EMULATION_TRAFFIC)

void start_counting() {
  throw Error("only the traffic build counts");
}
std::string stop_counting() {
  throw Error("only the traffic build counts");
}

#endif

}  // namespace emulation
