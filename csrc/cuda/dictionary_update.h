// What the launches of all optimisers' updates have in common; see dictionary_update.cuh.
#pragma once

#include <cstdint>

#include "common/dictionary_update.h"

namespace kshot::cuda {

// Uses of one dictionary travel in the parameters of a kernel. Whoever has more of them passes the dense
// gradient, which is the smaller form by then.
constexpr int64_t kMostUses = 40;

}  // namespace kshot::cuda
