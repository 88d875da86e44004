// Launch function of the dense convolution; kernel: dense_gather.cuh.
#include "cuda/dense_gather_launch.cuh"

namespace kshot::cuda {

void dense_forward(const DenseForward& args, void* stream) {
  launch_gather<false>(args.dtype, args.allow_tf32,
                       forward_parameters(args.geometry, args.input, args.output), args.geometry, args.weight,
                       args.gate, args.bias, stream);
}

}  // namespace kshot::cuda
