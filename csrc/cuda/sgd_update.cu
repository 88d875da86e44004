// Launches of the kernel in sgd_update.cuh.
#include "cuda/sgd_update.cuh"

#include "cuda/dictionary_update_launch.cuh"

namespace kshot::cuda {

void sgd_update(const SgdUpdate* updates, int64_t count, void* stream) {
  for_each_dtype(updates, count, [&](auto* type, const SgdUpdate* alike, int64_t alike_count) {
    using T = std::remove_pointer_t<decltype(type)>;
    update_all<T, SgdJob>(alike, alike_count, [&](const UpdateJobs<SgdJob>& jobs) {
      KSHOT_LAUNCH(sgd_kernel<T>, dim3(jobs.list.blocks), dim3(kUpdateThreads), 0,
                   static_cast<cudaStream_t>(stream), jobs);
    });
  });
}

}  // namespace kshot::cuda
