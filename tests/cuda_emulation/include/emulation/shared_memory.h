// Shared memory: static arrays, and one dynamic buffer. Static arrays are thread-local, for that tells them
// from the host's variables and keeps them together, so that they can be poisoned between blocks; a section
// of their own does not: GCC 12 forgets it in templates. The address sanitizer guards only variables that are
// not thread-local.
#pragma once

#include <cstdint>

namespace emulation {

constexpr int64_t kDefaultSharedBytes = 48 << 10;  // dynamic, unless a kernel asked for more
constexpr int64_t kLargestSharedBytes = 227 << 10;

void* dynamic_shared_memory();

}  // namespace emulation

#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

#define KSHOT_DYNAMIC_SHARED(type, name) \
  type* name = reinterpret_cast<type*>(::emulation::dynamic_shared_memory())
