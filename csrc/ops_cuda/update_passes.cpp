// The updates of many dictionaries on CUDA.
#include "ops/update_passes.h"

#include "cuda/adamw_update.h"
#include "cuda/sgd_update.h"
#include "ops_cuda/launch.h"

namespace kshot {
namespace {

template <class Update, class Run>
void run_on_device(const std::vector<Update>& updates, const Tensor& like, const Run& run) {
  for (const Update& update : updates) {
    STD_TORCH_CHECK(update.use_count <= cuda::kMostUses, "expected at most ", cuda::kMostUses,
                    " uses of a dictionary in one step, got ", update.use_count, "; pass the dense gradient");
  }
  const Launch launch(like);
  run(updates.data(), static_cast<int64_t>(updates.size()), launch.stream());
}

}  // namespace

void run_adamw_update(const std::vector<AdamwUpdate>& updates, const Tensor& like) {
  run_on_device(updates, like, cuda::adamw_update);
}

void run_sgd_update(const std::vector<SgdUpdate>& updates, const Tensor& like) {
  run_on_device(updates, like, cuda::sgd_update);
}

}  // namespace kshot
