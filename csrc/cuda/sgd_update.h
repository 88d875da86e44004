// SGD updates of many weight dictionaries: launch function; see sgd_update.cuh.
#pragma once

#include "common/sgd_update.h"
#include "cuda/dictionary_update.h"

namespace kshot::cuda {

// All updates of the list, in as few launches as the kernel's parameters allow. A copy of a dictionary has
// fewer than 2^31 elements; use_count is kMostUses at most.
void sgd_update(const SgdUpdate* updates, int64_t count, void* stream);

}  // namespace kshot::cuda
