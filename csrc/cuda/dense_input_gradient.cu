// Launch function of the dense convolution's gradient of the input; kernel: dense_gather.cuh.
#include "cuda/dense_gather_launch.cuh"

namespace kshot::cuda {

void dense_input_gradient(const DenseInputGradient& args, void* stream) {
  const ConvGeometry& geometry = args.geometry;
  GatherParameters parameters{};
  parameters.source = args.grad;
  parameters.target = args.grad_input;
  parameters.samples = geometry.batch;
  parameters.source_height = static_cast<int32_t>(geometry.height.output);
  parameters.source_width = static_cast<int32_t>(geometry.width.output);
  parameters.source_channels = static_cast<int32_t>(geometry.out_channels);
  parameters.target_height = static_cast<int32_t>(geometry.height.input);
  parameters.target_width = static_cast<int32_t>(geometry.width.input);
  parameters.target_channels = static_cast<int32_t>(geometry.in_channels);
  launch_gather<true>(args.dtype, args.allow_tf32, parameters, geometry, args.weight, args.gate, {nullptr, 0},
                      stream);
}

}  // namespace kshot::cuda
