// Barriers of a block and of a warp.
#pragma once

#include "emulation/error.h"

namespace emulation {

// Waits for all threads of the block that have not ended; how many of them passed a `predicate` that is not
// zero, and how many there were.
struct Votes {
  int yes, all;
};
Votes wait_for_block(const char* name, bool predicate, Site site);
void wait_for_warp(unsigned mask, Site site);

}  // namespace emulation

inline void __syncthreads(KSHOT_EMULATION_HERE) {
  emulation::wait_for_block("__syncthreads", false, {file, line});
}
inline int __syncthreads_count(int predicate, KSHOT_EMULATION_HERE) {
  return emulation::wait_for_block("__syncthreads_count", predicate != 0, {file, line}).yes;
}
inline int __syncthreads_or(int predicate, KSHOT_EMULATION_HERE) {
  return emulation::wait_for_block("__syncthreads_or", predicate != 0, {file, line}).yes != 0;
}
inline int __syncthreads_and(int predicate, KSHOT_EMULATION_HERE) {
  const emulation::Votes votes = emulation::wait_for_block("__syncthreads_and", predicate != 0, {file, line});
  return votes.yes == votes.all;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, KSHOT_EMULATION_HERE) {
  emulation::wait_for_warp(mask, {file, line});
}
// Order between accesses comes from barriers alone here: without one, a fence promises a block nothing.
inline void __threadfence() {}
inline void __threadfence_block() {}
