// SGD update of a weight dictionary: arguments of the kernel; see sgd_update.cpp.
#pragma once

#include <cstdint>

#include "common/sgd_update.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// Rows [begin, end) of all K copies.
KSHOT_DECLARE(void sgd_update(const SgdUpdate& args, int64_t begin, int64_t end))

}  // namespace kshot::cpu
