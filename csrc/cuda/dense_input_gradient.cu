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
  // The gate is a part of the weight here, so one per sample makes the weight a sample's own.
  parameters.gate = args.gate.data;
  parameters.gate_stride = args.gate.stride;
  parameters.per_sample = (args.weight.code != nullptr && args.weight.code_stride != 0) ||
                          (args.gate.data != nullptr && args.gate.stride != 0);
  launch_gather<true>(args.dtype, args.allow_tf32, parameters, geometry, args.weight, stream);
}

}  // namespace kshot::cuda
