// Shared memory: static arrays in a section of their own, so that they can be poisoned between blocks, and
// one dynamic buffer. Under the address sanitizer static arrays are ordinary variables, which it guards.
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
#define __shared__ static __attribute__((section("kshot_emulation_shared")))
#endif

#define KSHOT_DYNAMIC_SHARED(type, name) \
  type* name = reinterpret_cast<type*>(::emulation::dynamic_shared_memory())
