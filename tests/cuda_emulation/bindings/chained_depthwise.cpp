// Kernels: csrc/cuda/depthwise_chain.cu csrc/cuda/depthwise_chain_float32.cu
// Kernels: csrc/cuda/depthwise_chain_bfloat16.cu csrc/cuda/depthwise_chain_float16.cu csrc/cuda/chain_norm.cu
#include "cuda/depthwise_chain.h"

#include "chains.h"

using namespace chains;
using namespace kshot;

namespace {

// After a link's head: a dictionary [K, C, taps], code, gate.
struct Weight {
  Input dictionary, code, gate;
  cuda::DepthwiseWeight args;

  explicit Weight(const py::tuple& t)
      : dictionary("dictionary", t[9]), code("code", t[10]), gate("gate", t[11]) {
    const auto copies = t[9].cast<py::array>();
    args = {dictionary.data(),
            copies.shape(0),
            copies.shape(1) * copies.shape(2),
            copies.shape(2),
            1,
            code.data(),
            row_of(t[10]),
            gate.data(),
            row_of(t[11])};
  }
  Weight(const Weight&) = delete;
};

py::tuple forward(const py::tuple& arguments, bool moments) {
  const Link link(arguments);
  const Weight weight(arguments);
  const ForwardResults results(link);
  cuda::ChainedDepthwise args{link.dtype,
                              link.geometry,
                              weight.args,
                              link.input.data(),
                              link.norm,
                              results.output.data(),
                              moments ? results.mean.data<float>() : nullptr,
                              moments ? results.variance.data<float>() : nullptr,
                              nullptr};
  const emulation::Scratch workspace(cuda::chained_depthwise_workspace(args));
  args.workspace = workspace.data();
  cuda::chained_depthwise(args, nullptr);
  return results.arrays();
}

// The gradient of the taps is [groups, C, taps].
py::tuple backward(const py::tuple& arguments, const py::tuple& gradient, bool per_sample, bool need_input) {
  const Link link(arguments);
  const Weight weight(arguments);
  const GradientOperands operands(gradient);
  const ConvGeometry& g = link.geometry;
  const BackwardResults results(link, {per_sample ? g.batch : 1, g.in_channels, g.taps()});
  cuda::ChainedDepthwiseBackward args{link.dtype,
                                      g,
                                      weight.args,
                                      link.input.data(),
                                      link.norm,
                                      operands.args(g),
                                      need_input ? results.grad_input.data() : nullptr,
                                      per_sample,
                                      results.weight.data<float>(),
                                      results.sums.data<float>(),
                                      nullptr};
  const emulation::Scratch workspace(cuda::chained_depthwise_backward_workspace(args));
  args.workspace = workspace.data();
  cuda::chained_depthwise_backward(args, nullptr);
  return results.arrays(need_input);
}

}  // namespace

KSHOT_EMULATION_MODULE(module) {
  module.def("forward", &forward);
  module.def("backward", &backward);
}
