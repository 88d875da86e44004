// What the traffic build counts; the other builds count nothing.
#pragma once

#include <cstddef>

#include "emulation/launch.h"

namespace emulation {

#if defined(KSHOT_EMULATION_TRAFFIC)
void observe_launch(const LaunchSettings& settings);
void observe_launch_end();
void observe_block();
void observe_block_end();
// An access of the current thread that the emulator makes on its behalf.
void observe_access(const void* address, size_t bytes, bool write, const Site& site);
// A matrix that the current warp loads or stores: `lines` of `bytes`, `stride` bytes apart.
void observe_tile(const void* address, size_t stride, int lines, size_t bytes, bool write, const Site& site);
#else
inline void observe_launch(const LaunchSettings&) {}
inline void observe_launch_end() {}
inline void observe_block() {}
inline void observe_block_end() {}
inline void observe_access(const void*, size_t, bool, const Site&) {}
inline void observe_tile(const void*, size_t, int, size_t, bool, const Site&) {}
#endif

}  // namespace emulation
