// Launch function of the dense convolution's gradient of the input; kernel: dense_gather.cuh.
#include "cuda/dense_gather_launch.cuh"

namespace kshot::cuda {

void dense_input_gradient(const DenseInputGradient& args, void* stream) {
  launch_gather<true>(args.dtype, args.allow_tf32,
                      backward_parameters(args.geometry, args.grad, args.grad_input), args.geometry,
                      args.weight, args.gate, {nullptr, 0}, stream);
}

}  // namespace kshot::cuda
