// The updates of many dictionaries on the CPU: rows of all of them shared out to the threads.
#include "ops/update_passes.h"

#include "cpu/adamw_update.h"
#include "cpu/sgd_update.h"
#include "ops/parallel_rows.h"

namespace kshot {
namespace {

template <class Update>
std::vector<const MixGeometry*> geometries_of(const std::vector<Update>& updates) {
  std::vector<const MixGeometry*> geometries;
  for (const Update& update : updates) geometries.push_back(&update.geometry);
  return geometries;
}

}  // namespace

void run_adamw_update(const std::vector<AdamwUpdate>& updates, const Tensor&) {
  parallel_rows(geometries_of(updates), [&](size_t index, int64_t begin, int64_t end) {
    KSHOT_CALL(adamw_update, updates[index], begin, end);
  });
}

void run_sgd_update(const std::vector<SgdUpdate>& updates, const Tensor&) {
  parallel_rows(geometries_of(updates), [&](size_t index, int64_t begin, int64_t end) {
    KSHOT_CALL(sgd_update, updates[index], begin, end);
  });
}

}  // namespace kshot
