// Launch function of the dense convolution; kernel: dense_gather.cuh.
#include "cuda/dense_gather_launch.cuh"

namespace kshot::cuda {

void dense_forward(const DenseForward& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  GatherParameters parameters{};
  parameters.source = args.input;
  parameters.target = args.output;
  parameters.samples = geometry.batch;
  parameters.source_height = static_cast<int32_t>(geometry.height.input);
  parameters.source_width = static_cast<int32_t>(geometry.width.input);
  parameters.source_channels = static_cast<int32_t>(geometry.in_channels);
  parameters.target_height = static_cast<int32_t>(geometry.height.output);
  parameters.target_width = static_cast<int32_t>(geometry.width.output);
  parameters.target_channels = static_cast<int32_t>(geometry.out_channels);
  launch_gather<false>(args.dtype, args.allow_tf32, parameters, geometry, args.weight, args.gate, args.bias,
                       stream);
}

}  // namespace kshot::cuda
