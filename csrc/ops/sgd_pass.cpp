// The update of a dictionary on the CPU: rows shared out to the threads.
#include "ops/sgd_pass.h"

#include "cpu/sgd_update.h"
#include "ops/dictionary.h"

namespace kshot {

void run_sgd_update(const SgdUpdate& args, const Tensor&) {
  torch::stable::parallel_for(0, args.geometry.rows, grain_of(args.geometry),
                              [&](int64_t begin, int64_t end) { KSHOT_CALL(sgd_update, args, begin, end); });
}

}  // namespace kshot
