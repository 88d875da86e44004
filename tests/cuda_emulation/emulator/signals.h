// Faults in a kernel that the processor or the clock finds: told like any other mistake, in the builds
// without a sanitizer of their own.
#pragma once

#include <signal.h>
#include <sys/time.h>

namespace emulation {

class SignalGuard {
 public:
  explicit SignalGuard(int most_seconds);
  ~SignalGuard();

 private:
  static constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGVTALRM};
  struct sigaction before_[sizeof(kSignals) / sizeof(kSignals[0])];
};

}  // namespace emulation
