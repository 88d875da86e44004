// The update of many dictionaries on the CPU: rows of all of them shared out to the threads.
#include "ops/sgd_pass.h"

#include "cpu/sgd_update.h"
#include "ops/parallel_rows.h"

namespace kshot {

void run_sgd_update(const std::vector<SgdUpdate>& updates, const Tensor&) {
  std::vector<const MixGeometry*> geometries;
  for (const SgdUpdate& update : updates) geometries.push_back(&update.geometry);
  parallel_rows(geometries, [&](size_t index, int64_t begin, int64_t end) {
    KSHOT_CALL(sgd_update, updates[index], begin, end);
  });
}

}  // namespace kshot
