// Launch of the kernel in dynamic_group_weight.cuh.
#include "cuda/dynamic_group_weight.cuh"

#include "cuda/dynamic_group_weight.h"

namespace kshot::cuda {

void dynamic_group_weight(const GroupWeight& args, void* stream) {
  dispatch_device_dtype(args.mixing.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    GroupWeightJob job{};
    job.shape = group_shape(args, sizeof(T), {args.mixing.weight, args.mixing.output});
    job.weight = args.mixing.weight;
    job.code = args.mixing.code;
    job.gates = args.groups.values;
    job.output = args.mixing.output;
    if (job.shape.mix.samples == 0) return;
    const int64_t tiles = tiles_of(job.shape.mix, kGroupThreads * kVectorLanes<T>);
    KSHOT_LAUNCH(group_weight_kernel<T>, dim3(static_cast<unsigned>(tiles)), dim3(kGroupThreads), 0,
                 static_cast<cudaStream_t>(stream), job);
  });
}

}  // namespace kshot::cuda
