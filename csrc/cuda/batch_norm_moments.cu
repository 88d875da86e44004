// Launches of the kernels in batch_norm_moments.cuh.
#include "cuda/batch_norm_moments.cuh"

#include "cuda/batch_norm_act.h"

namespace kshot::cuda {
namespace {

// Calls body(null pointer to the device type, constant lanes, tiling).
template <class Body>
void dispatch_moments(const BatchNormMoments& args, const Body& body) {
  dispatch_device_dtype(args.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    dispatch_lanes<T>(args.channels, {args.input}, [&](auto lanes) {
      body(type, lanes, channel_tiling(args.channels, 1, args.positions, lanes.value));
    });
  });
}

}  // namespace

int64_t batch_norm_moments_workspace(const BatchNormMoments& args) {
  int64_t bytes = 0;
  dispatch_moments(args, [&](auto* type, auto, const ChannelTiling& tiling) {
    using C = Sum<std::remove_pointer_t<decltype(type)>>;
    bytes = int64_t{2} * tiling.pieces * tiling.channels * static_cast<int64_t>(sizeof(C));
  });
  return bytes;
}

void batch_norm_moments(const BatchNormMoments& args, void* stream) {
  if (args.channels == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  dispatch_moments(args, [&](auto* type, auto lanes, const ChannelTiling& tiling) {
    using T = std::remove_pointer_t<decltype(type)>;
    using C = Sum<T>;
    C* moments = static_cast<C*>(args.workspace);
    KSHOT_LAUNCH((moments_kernel<T, decltype(lanes)::value>), grid_of(tiling), dim3(kChannelThreads), 0, on,
                 tiling, (Pixels<T>{static_cast<const T*>(args.input.data), args.input.stride}), moments);
    launch_join_moments<C>(PieceCounts<C>{tiling}, tiling.channels, tiling.pieces, moments,
                           static_cast<C*>(args.mean), static_cast<C*>(args.variance), on);
  });
}

}  // namespace kshot::cuda
