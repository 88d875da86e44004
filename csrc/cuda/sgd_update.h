// SGD updates of many weight dictionaries: arguments and launch function; see sgd_update.cuh.
#pragma once

#include <cstdint>

#include "common/sgd_update.h"

namespace kshot::cuda {

// Uses of one dictionary travel in the parameters of a kernel. Whoever has more of them passes the dense
// gradient, which is the smaller form by then.
constexpr int64_t kMaxSgdUses = 40;

// All updates of the list, in as few launches as the kernel's parameters allow. A copy of a dictionary has
// fewer than 2^31 elements; use_count is kMaxSgdUses at most.
void sgd_update(const SgdUpdate* updates, int64_t count, void* stream);

}  // namespace kshot::cuda
