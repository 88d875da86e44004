// Launch function of the shared weight's gradient; kernels: dense_weight_gradient.cuh.
#include "cuda/dense_weight_gradient_launch.cuh"

namespace kshot::cuda {

int64_t dense_weight_gradient_workspace(const DenseWeightGradient& args) {
  return weight_gradient_workspace(args.geometry);
}

void dense_weight_gradient(const DenseWeightGradient& args, void* stream) {
  const int64_t element_size = args.dtype == DType::kFloat32 ? 4 : 2;
  launch_weight_gradient<PlainPositions>(
      args, position_products(args.geometry, args.grad, args.input, element_size), stream);
}

}  // namespace kshot::cuda
