// Launches of the kernels in effective_weight.cuh.
#include "cuda/effective_weight.cuh"

#include <algorithm>

#include "cuda/effective_weight.h"

namespace kshot::cuda {
namespace {

MixJob mix_job(const EffectiveWeight& mixing, int64_t element_bytes) {
  MixJob job{};
  job.shape = mix_shape(mixing.geometry, mixing.gate_stride, element_bytes, {mixing.weight, mixing.output});
  job.weight = mixing.weight;
  job.code = mixing.code;
  job.gate = mixing.gate;
  job.output = mixing.output;
  // So many samples that reading K copies again for the next group adds an eighth at most.
  job.sample_group = std::max(32, 8 * job.shape.shots);
  return job;
}

template <class T>
void mix(const EffectiveWeight* mixings, int64_t count, cudaStream_t stream) {
  using List = JobList<MixJob>;
  static_assert(sizeof(List) <= kParameterBytes, "the parameters of a kernel are limited");
  const auto launch_shared = [&](const List& list) {
    KSHOT_LAUNCH(mix_kernel<T>, dim3(list.blocks), dim3(kMixThreads), 0, stream, list);
  };
  const auto launch_per_sample = [&](const List& list) {
    KSHOT_LAUNCH(mix_per_sample_kernel<T>, dim3(list.blocks), dim3(kMixPerSampleThreads), 0, stream, list);
  };
  JobBatch<List, decltype(launch_shared)> shared(launch_shared);
  JobBatch<List, decltype(launch_per_sample)> per_sample(launch_per_sample);
  for (int64_t i = 0; i < count; ++i) {
    const MixJob job = mix_job(mixings[i], sizeof(T));
    if (job.shape.samples == 1) {
      shared.add(job, tiles_of(job.shape, kMixThreads * kVectorLanes<T>));
    } else if (job.shape.samples > 1) {
      const int64_t groups = (job.shape.samples + job.sample_group - 1) / job.sample_group;
      per_sample.add(job, tiles_of(job.shape, kMixPerSampleThreads * kVectorLanes<T>) * groups);
    }
  }
  shared.flush();
  per_sample.flush();
}

}  // namespace

void effective_weight(const EffectiveWeight* mixings, int64_t count, void* stream) {
  for (int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && mixings[end].dtype == mixings[begin].dtype;) ++end;
    dispatch_device_dtype(mixings[begin].dtype, [&](auto* type) {
      mix<std::remove_pointer_t<decltype(type)>>(mixings + begin, end - begin,
                                                 static_cast<cudaStream_t>(stream));
    });
  }
}

}  // namespace kshot::cuda
