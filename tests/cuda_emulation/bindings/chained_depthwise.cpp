// Kernels: csrc/cuda/depthwise_chain.cu csrc/cuda/depthwise_chain_float32.cu
// Kernels: csrc/cuda/depthwise_chain_bfloat16.cu csrc/cuda/depthwise_chain_float16.cu csrc/cuda/chain_norm.cu
#include "cuda/depthwise_chain.h"

#include "arguments.h"

namespace py = pybind11;
using namespace emulation;
using namespace kshot;

namespace {

using Numbers = std::vector<int64_t>;

int64_t row_of(const py::object& object) {
  if (object.is_none()) return 0;
  const auto array = py::cast<py::array>(object);
  return array.ndim() == 2 ? array.shape(1) : 0;
}

// What forward and backward share: (dtype, batch, channels and the axes' numbers, activation, eps, input,
// mean, variance, weight and bias of the norm, dictionary [K, C, taps], code, gate).
struct Link {
  Input input, mean, variance, norm_weight, norm_bias, dictionary, code, gate;
  DType dtype;
  ConvGeometry geometry;
  cuda::ChainNorm norm;
  cuda::DepthwiseWeight weight;

  explicit Link(const py::tuple& t)
      : input("input", t[4]),
        mean("mean", t[5]),
        variance("variance", t[6]),
        norm_weight("norm_weight", t[7]),
        norm_bias("norm_bias", t[8]),
        dictionary("dictionary", t[9]),
        code("code", t[10]),
        gate("gate", t[11]),
        dtype(static_cast<DType>(t[0].cast<int>())) {
    const auto n = t[1].cast<Numbers>();
    const auto axis = [&](size_t at) {
      return ConvAxis{n.at(at), n.at(at + 1), n.at(at + 2), n.at(at + 3), n.at(at + 4), n.at(at + 5)};
    };
    geometry = {n.at(0), n.at(1), n.at(1), axis(2), axis(8)};
    norm = {static_cast<Activation>(t[2].cast<int>()),
            t[3].cast<float>(),
            mean.data<float>(),
            variance.data<float>(),
            norm_weight.data<float>(),
            norm_bias.data<float>(),
            row_of(t[7]),
            row_of(t[8])};
    const auto copies = t[9].cast<py::array>();
    weight = {dictionary.data(),
              copies.shape(0),
              copies.shape(1) * copies.shape(2),
              copies.shape(2),
              1,
              code.data(),
              row_of(t[10]),
              gate.data(),
              row_of(t[11])};
  }
  Link(const Link&) = delete;
};

py::tuple forward(const py::tuple& arguments, bool moments) {
  const Link link(arguments);
  const ConvGeometry& g = link.geometry;
  const Output y("output", {g.batch, g.height.output, g.width.output, g.in_channels},
                 element_dtype(link.dtype));
  const Output mean("mean", {g.in_channels}, py::dtype::of<float>()),
      variance("variance", {g.in_channels}, py::dtype::of<float>());
  cuda::ChainedDepthwise args{link.dtype, g,       link.weight, link.input.data(), link.norm, y.data(),
                              nullptr,    nullptr, nullptr};
  if (moments) {
    args.mean = mean.data<float>();
    args.variance = variance.data<float>();
  }
  const Scratch workspace(cuda::chained_depthwise_workspace(args));
  args.workspace = workspace.data();
  cuda::chained_depthwise(args, nullptr);
  return py::make_tuple(y.numpy(), mean.numpy(), variance.numpy());
}

// Gradients of the input, of the taps [groups, C, taps], and of the norm: mean, variance, weight and bias.
py::tuple backward(const py::tuple& arguments, const py::array& grad, const py::object& output,
                   const py::object& mean, const py::object& grad_mean, const py::object& grad_variance,
                   bool per_sample, bool need_input) {
  const Link link(arguments);
  const ConvGeometry& g = link.geometry;
  const Input grad_output("grad_output", grad), y("output", output), y_mean("mean", mean),
      of_mean("grad_mean", grad_mean), of_variance("grad_variance", grad_variance);
  const Output grad_input("grad_input", {g.batch, g.height.input, g.width.input, g.in_channels},
                          element_dtype(link.dtype));
  const int64_t samples = link.norm.weight_stride || link.norm.bias_stride ? g.batch : 1, channels = g.in_channels;
  const py::dtype floats = py::dtype::of<float>();
  const Output weight("grad_weight", {per_sample ? g.batch : 1, channels, g.taps()}, floats),
      sums("norm_sums", {samples, 2, channels}, floats), norm_mean("norm_mean", {channels}, floats),
      norm_variance("norm_variance", {channels}, floats),
      norm_weight("norm_weight", {samples, channels}, floats),
      norm_bias("norm_bias", {samples, channels}, floats);
  const int64_t positions = g.batch * g.height.output * g.width.output;
  const cuda::ChainGradient gradient{
      grad_output.data(),        y.data(),
      y_mean.data<float>(),      of_mean.data<float>(),
      of_variance.data<float>(), positions ? 1.0f / static_cast<float>(positions) : 0.0f};
  cuda::ChainedDepthwiseBackward args{link.dtype,
                                      g,
                                      link.weight,
                                      link.input.data(),
                                      link.norm,
                                      gradient,
                                      need_input ? grad_input.data() : nullptr,
                                      per_sample,
                                      weight.data<float>(),
                                      sums.data<float>(),
                                      nullptr};
  const Scratch workspace(cuda::chained_depthwise_backward_workspace(args));
  args.workspace = workspace.data();
  cuda::chained_depthwise_backward(args, nullptr);
  cuda::chain_norm_gradient({channels, samples, link.norm, sums.data<float>(), norm_mean.data<float>(),
                             norm_variance.data<float>(), norm_weight.data<float>(), norm_bias.data<float>()},
                            nullptr);
  return py::make_tuple(grad_input.numpy(), weight.numpy(), norm_mean.numpy(), norm_variance.numpy(),
                        norm_weight.numpy(), norm_bias.numpy());
}

}  // namespace

KSHOT_EMULATION_MODULE(module) {
  module.def("forward", &forward);
  module.def("backward", &backward);
}
