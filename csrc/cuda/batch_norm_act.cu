// Launches of the kernel in batch_norm_act.cuh.
#include "cuda/batch_norm_act.cuh"

namespace kshot::cuda {

void batch_norm_act(const BatchNormAct& args, void* stream) {
  if (args.channels == 0 || args.samples == 0) return;
  dispatch_device_dtype(args.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    dispatch_lanes<T>(
        args.channels, {args.input, args.residual, {args.output, args.channels}}, [&](auto lanes) {
          const ChannelTiling tiling =
              channel_tiling(args.channels, args.samples, args.positions_per_sample, lanes.value);
          KSHOT_LAUNCH((batch_norm_act_kernel<T, decltype(lanes)::value>), grid_of(tiling),
                       dim3(kChannelThreads), 0, static_cast<cudaStream_t>(stream), tiling, args);
        });
  });
}

}  // namespace kshot::cuda
