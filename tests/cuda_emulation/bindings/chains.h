// What the links of chains share in their bindings: operands as the tests pass them, results as arrays.
#pragma once

#include "arguments.h"
#include "cuda/chain.h"

namespace chains {

namespace py = pybind11;
using emulation::Input;
using emulation::Output;
using Numbers = std::vector<int64_t>;

inline int64_t row_of(const py::object& object) {
  if (object.is_none()) return 0;
  const auto array = py::cast<py::array>(object);
  return array.ndim() == 2 ? array.shape(1) : 0;
}

// The head of a call: (dtype, batch, channels, the axes' numbers and perhaps the output channels, activation,
// eps, input, mean, variance, weight and bias of the norm).
struct Link {
  Input input, mean, variance, norm_weight, norm_bias;
  kshot::DType dtype;
  kshot::ConvGeometry geometry;
  kshot::cuda::ChainNorm norm;

  explicit Link(const py::tuple& t)
      : input("input", t[4]),
        mean("mean", t[5]),
        variance("variance", t[6]),
        norm_weight("norm_weight", t[7]),
        norm_bias("norm_bias", t[8]),
        dtype(static_cast<kshot::DType>(t[0].cast<int>())) {
    const auto n = t[1].cast<Numbers>();
    const auto axis = [&](size_t at) {
      return kshot::ConvAxis{n.at(at), n.at(at + 1), n.at(at + 2), n.at(at + 3), n.at(at + 4), n.at(at + 5)};
    };
    geometry = {n.at(0), n.at(1), n.size() > 14 ? n[14] : n.at(1), axis(2), axis(8)};
    norm = {static_cast<kshot::Activation>(t[2].cast<int>()),
            t[3].cast<float>(),
            mean.data<float>(),
            variance.data<float>(),
            norm_weight.data<float>(),
            norm_bias.data<float>(),
            row_of(t[7]),
            row_of(t[8])};
  }
  Link(const Link&) = delete;
};

// Raw output, mean and variance.
struct ForwardResults {
  Output output, mean, variance;

  explicit ForwardResults(const Link& link)
      : output("output",
               {link.geometry.batch, link.geometry.height.output, link.geometry.width.output,
                link.geometry.out_channels},
               element_dtype(link.dtype)),
        mean("mean", {link.geometry.out_channels}, py::dtype::of<float>()),
        variance("variance", {link.geometry.out_channels}, py::dtype::of<float>()) {}
  py::tuple arrays() const { return py::make_tuple(output.numpy(), mean.numpy(), variance.numpy()); }
};

// The gradient of a raw output: (g, y or None, its mean, gradients of mean and variance or None).
struct GradientOperands {
  Input grad, output, mean, of_mean, of_variance;

  explicit GradientOperands(const py::tuple& t)
      : grad("grad_output", t[0]),
        output("output", t[1]),
        mean("mean", t[2]),
        of_mean("grad_mean", t[3]),
        of_variance("grad_variance", t[4]) {}
  kshot::cuda::ChainGradient args(const kshot::ConvGeometry& g) const {
    const int64_t positions = g.batch * g.height.output * g.width.output;
    return {grad.data(),
            output.data(),
            mean.data<float>(),
            of_mean.data<float>(),
            of_variance.data<float>(),
            positions ? 1.0f / static_cast<float>(positions) : 0.0f};
  }
};

// Gradients of the input, of the weight, and of the norm: mean, variance, weight and bias.
struct BackwardResults {
  const Link& link;
  int64_t samples;
  Output grad_input, weight, sums, mean, variance, norm_weight, norm_bias;

  BackwardResults(const Link& of, const Numbers& weight_shape)
      : link(of),
        samples(of.norm.weight_stride || of.norm.bias_stride ? of.geometry.batch : 1),
        grad_input(
            "grad_input",
            {of.geometry.batch, of.geometry.height.input, of.geometry.width.input, of.geometry.in_channels},
            element_dtype(of.dtype)),
        weight("grad_weight", weight_shape, py::dtype::of<float>()),
        sums("norm_sums", {samples, 2, of.geometry.in_channels}, py::dtype::of<float>()),
        mean("norm_mean", {of.geometry.in_channels}, py::dtype::of<float>()),
        variance("norm_variance", {of.geometry.in_channels}, py::dtype::of<float>()),
        norm_weight("norm_weight", {samples, of.geometry.in_channels}, py::dtype::of<float>()),
        norm_bias("norm_bias", {samples, of.geometry.in_channels}, py::dtype::of<float>()) {}

  py::tuple arrays(bool need_input) const {
    if (need_input) {
      kshot::cuda::chain_norm_gradient(
          {link.geometry.in_channels, samples, link.norm, sums.data<float>(), mean.data<float>(),
           variance.data<float>(), norm_weight.data<float>(), norm_bias.data<float>()},
          nullptr);
    }
    return py::make_tuple(grad_input.numpy(), weight.numpy(), mean.numpy(), variance.numpy(),
                          norm_weight.numpy(), norm_bias.numpy());
  }
};

}  // namespace chains
