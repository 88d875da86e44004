// AdamW update of a weight dictionary: arguments of the kernel; see adamw_update.cpp.
#pragma once

#include <cstdint>

#include "common/adamw_update.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// Rows [begin, end) of all K copies.
KSHOT_DECLARE(void adamw_update(const AdamwUpdate& args, int64_t begin, int64_t end))

}  // namespace kshot::cpu
