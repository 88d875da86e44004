// The block's shared memory: poisoned before a block starts, its surroundings looked at when it ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "emulation/shared_memory.h"

namespace emulation {

constexpr unsigned char kPoison = 0xff;  // a NaN in every floating-point type

int64_t dynamic_shared_limit(const void* kernel);
void begin_shared_memory(int64_t dynamic_bytes);
std::string mistake_in_shared_memory();  // empty if there is none
bool is_shared(const void* address, size_t bytes);

}  // namespace emulation
