// The update of a dictionary on CUDA.
#include "ops/sgd_pass.h"

#include "cuda/sgd_update.h"
#include "ops_cuda/launch.h"

namespace kshot {

void run_sgd_update(const SgdUpdate& args, const Tensor& weight) {
  STD_TORCH_CHECK(args.use_count <= cuda::kMaxSgdUses, "expected at most ", cuda::kMaxSgdUses,
                  " uses of a dictionary in one step, got ", args.use_count, "; pass the dense gradient");
  const Launch launch(weight);
  cuda::sgd_update(&args, 1, launch.stream());
  launch.check("sgd_update");
}

}  // namespace kshot
