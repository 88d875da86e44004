// The update of many dictionaries on CUDA.
#include "ops/sgd_pass.h"

#include "cuda/sgd_update.h"
#include "ops_cuda/launch.h"

namespace kshot {

void run_sgd_update(const std::vector<SgdUpdate>& updates, const Tensor& like) {
  for (const SgdUpdate& update : updates) {
    STD_TORCH_CHECK(update.use_count <= cuda::kMaxSgdUses, "expected at most ", cuda::kMaxSgdUses,
                    " uses of a dictionary in one step, got ", update.use_count, "; pass the dense gradient");
  }
  const Launch launch(like);
  cuda::sgd_update(updates.data(), static_cast<int64_t>(updates.size()), launch.stream());
}

}  // namespace kshot
