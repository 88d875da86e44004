// Launches of the kernels in batch_norm_act_backward.cuh.
#include "cuda/batch_norm_act_backward.cuh"

namespace kshot::cuda {
namespace {

// Calls body(null pointer to the device type, constant lanes, tiling).
template <class Body>
void dispatch_backward(const BatchNormActBackward& args, const Body& body) {
  const BatchNormAct& forward = args.forward;
  dispatch_device_dtype(forward.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    // Tensors that a pass does not use are null, and aligned.
    dispatch_lanes<T>(
        forward.channels,
        {forward.input,
         forward.residual,
         args.grad_output,
         {args.grad_input, forward.channels},
         {args.grad_residual, forward.channels}},
        [&](auto lanes) {
          body(type, lanes,
               channel_tiling(forward.channels, forward.samples, forward.positions_per_sample, lanes.value));
        });
  });
}

}  // namespace

int64_t batch_norm_act_sums_workspace(const BatchNormActBackward& args) {
  int64_t bytes = 0;
  dispatch_backward(args, [&](auto* type, auto, const ChannelTiling& tiling) {
    using C = Sum<std::remove_pointer_t<decltype(type)>>;
    bytes = tiling.samples * tiling.pieces * 2 * tiling.channels * static_cast<int64_t>(sizeof(C));
  });
  return bytes;
}

void batch_norm_act_sums(const BatchNormActBackward& args, void* stream) {
  if (args.forward.channels == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  dispatch_backward(args, [&](auto* type, auto lanes, const ChannelTiling& tiling) {
    using T = std::remove_pointer_t<decltype(type)>;
    using C = Sum<T>;
    if (tiling.samples > 0) {
      if (args.mean_grads) {
        KSHOT_LAUNCH((gradient_sums_kernel<T, false, decltype(lanes)::value>), grid_of(tiling),
                     dim3(kChannelThreads), 0, on, tiling, args);
      } else {
        KSHOT_LAUNCH((gradient_sums_kernel<T, true, decltype(lanes)::value>), grid_of(tiling),
                     dim3(kChannelThreads), 0, on, tiling, args);
      }
      const ColumnSumJob job{args.workspace, args.sums, tiling.pieces, 2 * tiling.channels,
                             static_cast<int>(tiling.samples)};
      const auto launch = [&](const JobList<ColumnSumJob>& list) {
        KSHOT_LAUNCH(column_sum_kernel<C>, dim3(list.blocks), dim3(kSumColumns * kSumRows), 0, on, list);
      };
      JobBatch<JobList<ColumnSumJob>, decltype(launch)> batch(launch);
      batch.add(job, column_sum_blocks(job));
      batch.flush();
    }
    if (args.mean_grads) {
      const int blocks = (2 * tiling.channels + kMeanThreads - 1) / kMeanThreads;
      KSHOT_LAUNCH(mean_gradients_kernel<C>, dim3(blocks), dim3(kMeanThreads), 0, on, args);
    }
  });
}

void batch_norm_act_backward(const BatchNormActBackward& args, void* stream) {
  if (args.forward.channels == 0 || args.forward.samples == 0 || !args.mean_grads) return;
  dispatch_backward(args, [&](auto* type, auto lanes, const ChannelTiling& tiling) {
    using T = std::remove_pointer_t<decltype(type)>;
    KSHOT_LAUNCH((batch_norm_act_backward_kernel<T, decltype(lanes)::value>), grid_of(tiling),
                 dim3(kChannelThreads), 0, static_cast<cudaStream_t>(stream), tiling, args);
  });
}

}  // namespace kshot::cuda
