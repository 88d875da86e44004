// Launches of the kernels in dynamic_group_weight_backward.cuh, and the layout of their scratch memory.
#include "cuda/dynamic_group_weight_backward.cuh"

#include "cuda/column_sums.cuh"
#include "cuda/dynamic_group_weight.h"

namespace kshot::cuda {
namespace {

// Scratch memory: code_sums, then gate_sums, each a row per tile.
struct GroupSums {
  int64_t tiles, code_columns, gate_columns, code_bytes, gate_bytes;

  GroupSums(const DynamicGroupWeightBackward& args, int64_t tile, int64_t sum_bytes) {
    const MixGeometry& geometry = args.forward.mixing.geometry;
    const auto aligned = [](int64_t bytes) { return ceil_div(bytes, kVectorBytes) * kVectorBytes; };
    tiles = ceil_div(geometry.sample_size, tile);
    code_columns = args.grad_code ? geometry.samples * geometry.shots : 0;
    gate_columns = args.grad_gates ? args.forward.groups.gates : 0;
    code_bytes = aligned(tiles * code_columns * sum_bytes);
    gate_bytes = aligned(tiles * gate_columns * sum_bytes);
  }
};

template <class T>
GroupSums sums_of(const DynamicGroupWeightBackward& args) {
  return {args, kGroupBackwardThreads * kVectorLanes<T>, static_cast<int64_t>(sizeof(Sum<T>))};
}

template <class C>
void add_rows(const ColumnSumJob& job, cudaStream_t stream) {
  if (job.columns == 0) return;
  const auto launch = [&](const JobList<ColumnSumJob>& list) {
    KSHOT_LAUNCH(column_sum_kernel<C>, dim3(list.blocks), dim3(kSumColumns * kSumRows), 0, stream, list);
  };
  JobBatch<JobList<ColumnSumJob>, decltype(launch)> batch(launch);
  batch.add(job, column_sum_blocks(job));
  batch.flush();
}

template <class T>
void launch(const DynamicGroupWeightBackward& args, void* workspace, cudaStream_t stream) {
  const GroupSums sums = sums_of<T>(args);
  const EffectiveWeight& forward = args.forward.mixing;
  GroupBackwardJob job{};
  job.shape = group_shape(args.forward, sizeof(T), {forward.weight, args.grad, args.grad_weight});
  job.weight = forward.weight;
  job.code = forward.code;
  job.gates = args.forward.groups.values;
  job.grad = args.grad;
  job.grad_weight = args.grad_weight;
  job.code_sums = sums.code_columns ? workspace : nullptr;
  job.gate_sums = sums.gate_columns ? static_cast<char*>(workspace) + sums.code_bytes : nullptr;
  if (!job.grad_weight && !job.code_sums && !job.gate_sums) return;
  KSHOT_LAUNCH(group_weight_backward_kernel<T>, dim3(static_cast<unsigned>(sums.tiles)),
               dim3(kGroupBackwardThreads), 0, stream, job);
  const int tiles = static_cast<int>(sums.tiles);
  add_rows<Sum<T>>({job.code_sums, args.grad_code, tiles, static_cast<int>(sums.code_columns), 1}, stream);
  add_rows<Sum<T>>({job.gate_sums, args.grad_gates, tiles, static_cast<int>(sums.gate_columns), 1}, stream);
}

}  // namespace

int64_t dynamic_group_weight_backward_workspace(const DynamicGroupWeightBackward& args) {
  int64_t bytes = 0;
  dispatch_device_dtype(args.forward.mixing.dtype, [&](auto* type) {
    const GroupSums sums = sums_of<std::remove_pointer_t<decltype(type)>>(args);
    bytes = sums.code_bytes + sums.gate_bytes;
  });
  return bytes;
}

void dynamic_group_weight_backward(const DynamicGroupWeightBackward& args, void* workspace, void* stream) {
  dispatch_device_dtype(args.forward.mixing.dtype, [&](auto* type) {
    launch<std::remove_pointer_t<decltype(type)>>(args, workspace, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace kshot::cuda
