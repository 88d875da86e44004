// Even and odd elements apart, and joined again: arguments of the kernels; see channel_split.cpp.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace kshot::cpu {

// Elements of `bytes` bytes: 2, 4 or 8. even[i] = source[2 i], odd[i] = source[2 i + 1] for i in [begin,
// end).
KSHOT_DECLARE(void split_even_odd(int64_t bytes, const void* source, void* even, void* odd, int64_t begin,
                                  int64_t end))

// target[2 i] = even[i], target[2 i + 1] = odd[i] for i in [begin, end).
KSHOT_DECLARE(void join_even_odd(int64_t bytes, const void* even, const void* odd, void* target,
                                 int64_t begin, int64_t end))

}  // namespace kshot::cpu
