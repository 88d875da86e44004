// Stands in for CUDA's header of asynchronous copies from global to shared memory. A copy lands when its
// thread waits for it; until then the destination holds NaN.
#pragma once

#include <cstddef>

#include "emulation/error.h"

namespace emulation {

void begin_async_copy(void* to_shared, const void* from_global, size_t bytes, size_t zero_fill, Site site);
void commit_async_copies();
void wait_for_async_copies(size_t batches_left);

}  // namespace emulation

// Copies `bytes` (4, 8 or 16), the last `zero_fill` of them as zeros that are not read.
inline void __pipeline_memcpy_async(void* to_shared, const void* from_global, size_t bytes,
                                    size_t zero_fill = 0, KSHOT_EMULATION_HERE) {
  emulation::begin_async_copy(to_shared, from_global, bytes, zero_fill, {file, line});
}
inline void __pipeline_commit() {
  emulation::commit_async_copies();
}
inline void __pipeline_wait_prior(size_t batches_left) {
  emulation::wait_for_async_copies(batches_left);
}
