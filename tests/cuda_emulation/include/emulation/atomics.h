// Atomic operations on integers. On floating-point numbers they are an error: the order of the sum, and with
// it the result, would differ from run to run.
#pragma once

#include <cstddef>

#include "emulation/error.h"

namespace emulation {

void check_atomic(const void* address, size_t bytes, Site site);
[[noreturn]] void refuse_float_atomic(Site site);

// Out of the sanitizers' sight: no other thread runs meanwhile, and an atomic access is no race.
template <class T, class Update>
__attribute__((no_sanitize("thread", "address"))) T atomic_update(T* address, Site site,
                                                                  const Update& update) {
  check_atomic(address, sizeof(T), site);
  const T before = *address;
  *address = update(before);
  return before;
}

}  // namespace emulation

#define KSHOT_EMULATION_ATOMIC(name, T, expression)                                                    \
  inline T name(T* address, T value, KSHOT_EMULATION_HERE) {                                           \
    return emulation::atomic_update(address, {file, line},                                             \
                                    [value]([[maybe_unused]] T before) -> T { return (expression); }); \
  }
#define KSHOT_EMULATION_ATOMICS(T)                                      \
  KSHOT_EMULATION_ATOMIC(atomicAdd, T, before + value)                  \
  KSHOT_EMULATION_ATOMIC(atomicMax, T, before < value ? value : before) \
  KSHOT_EMULATION_ATOMIC(atomicMin, T, value < before ? value : before) \
  KSHOT_EMULATION_ATOMIC(atomicAnd, T, before& value)                   \
  KSHOT_EMULATION_ATOMIC(atomicOr, T, before | value)                   \
  KSHOT_EMULATION_ATOMIC(atomicXor, T, before ^ value)                  \
  KSHOT_EMULATION_ATOMIC(atomicExch, T, value)

KSHOT_EMULATION_ATOMICS(int)
KSHOT_EMULATION_ATOMICS(unsigned)
KSHOT_EMULATION_ATOMICS(unsigned long long)
#undef KSHOT_EMULATION_ATOMICS
#undef KSHOT_EMULATION_ATOMIC

inline unsigned atomicInc(unsigned* address, unsigned limit, KSHOT_EMULATION_HERE) {
  return emulation::atomic_update(address, {file, line},
                                  [limit](unsigned before) { return before >= limit ? 0 : before + 1; });
}
inline float atomicAdd(float*, float, KSHOT_EMULATION_HERE) {
  emulation::refuse_float_atomic({file, line});
}
inline double atomicAdd(double*, double, KSHOT_EMULATION_HERE) {
  emulation::refuse_float_atomic({file, line});
}
