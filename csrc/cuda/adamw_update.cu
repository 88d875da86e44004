// Launches of the kernel in adamw_update.cuh.
#include "cuda/adamw_update.cuh"

#include "cuda/dictionary_update_launch.cuh"

namespace kshot::cuda {

void adamw_update(const AdamwUpdate* updates, int64_t count, void* stream) {
  for_each_dtype(updates, count, [&](auto* type, const AdamwUpdate* alike, int64_t alike_count) {
    using T = std::remove_pointer_t<decltype(type)>;
    update_all<T, AdamwJob>(alike, alike_count, [&](const UpdateJobs<AdamwJob>& jobs) {
      KSHOT_LAUNCH(adamw_kernel<T>, dim3(jobs.list.blocks), dim3(kUpdateThreads), 0,
                   static_cast<cudaStream_t>(stream), jobs);
    });
  });
}

}  // namespace kshot::cuda
