// What tests set and ask of the emulator itself.
#pragma once

#include <cstdint>
#include <string>

namespace emulation {

// Order of threads and blocks: forward, reverse or random by `seed`. Buffers made from now on begin `shift`
// bytes behind an aligned address.
void set_schedule(const std::string& order, uint64_t seed, int64_t shift);

// When a kernel counts as one that never ends.
void set_budget(uint64_t switches, int seconds);

// Counting, in the traffic build only; an error in others. The counts come as JSON: emulation.py says what
// they mean.
void start_counting();
std::string stop_counting();

}  // namespace emulation
