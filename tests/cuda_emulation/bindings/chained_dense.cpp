// Kernels: csrc/cuda/dense_chain.cu csrc/cuda/chain_norm.cu
#include "cuda/dense_chain.h"

#include "chains.h"

using namespace chains;
using namespace kshot;

namespace {

// After a link's head: a weight [1, C_out, KH * KW * C_in], and whether tf32 is allowed.
cuda::DenseDictionary dictionary(const Input& weight, const ConvGeometry& g) {
  const int64_t row = g.taps() * g.in_channels;
  return {weight.data(), row * g.out_channels, row, g.in_channels, 1, nullptr, 0};
}

py::tuple forward(const py::tuple& arguments, bool moments) {
  const Link link(arguments);
  const Input weight("weight", arguments[9]);
  const ForwardResults results(link);
  cuda::ChainedDense args{link.dtype,
                          arguments[10].cast<bool>(),
                          link.geometry,
                          dictionary(weight, link.geometry),
                          link.input.data(),
                          link.norm,
                          results.output.data(),
                          moments ? results.mean.data<float>() : nullptr,
                          moments ? results.variance.data<float>() : nullptr,
                          nullptr};
  const emulation::Scratch workspace(cuda::chained_dense_workspace(args));
  args.workspace = workspace.data();
  cuda::chained_dense(args, nullptr);
  return results.arrays();
}

// The gradient of the weight is [C_out, KH, KW, C_in].
py::tuple backward(const py::tuple& arguments, const py::tuple& gradient, bool, bool need_input) {
  const Link link(arguments);
  const Input weight("weight", arguments[9]);
  const GradientOperands operands(gradient);
  const ConvGeometry& g = link.geometry;
  const BackwardResults results(link, {g.out_channels, g.height.kernel, g.width.kernel, g.in_channels});
  cuda::ChainedDenseBackward args{link.dtype,
                                  arguments[10].cast<bool>(),
                                  g,
                                  dictionary(weight, g),
                                  link.input.data(),
                                  link.norm,
                                  operands.args(g),
                                  need_input ? results.grad_input.data() : nullptr,
                                  results.sums.data<float>(),
                                  results.weight.data<float>(),
                                  nullptr};
  const emulation::Scratch workspace(cuda::chained_dense_backward_workspace(args));
  args.workspace = workspace.data();
  cuda::chained_dense_backward(args, nullptr);
  return results.arrays(need_input);
}

}  // namespace

KSHOT_EMULATION_MODULE(module) {
  module.def("forward", &forward);
  module.def("backward", &backward);
}
