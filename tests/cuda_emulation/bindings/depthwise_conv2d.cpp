// Kernels: csrc/cuda/depthwise_conv2d.cu csrc/cuda/depthwise_direct.cu
// Kernels: csrc/cuda/depthwise_gather_float32.cu csrc/cuda/depthwise_gather_bfloat16.cu
// Kernels: csrc/cuda/depthwise_gather_float16.cu csrc/cuda/depthwise_weight_gradient_float32.cu
// Kernels: csrc/cuda/depthwise_weight_gradient_bfloat16.cu csrc/cuda/depthwise_weight_gradient_float16.cu
#include "cuda/depthwise_conv2d.h"

#include "emulation/binding.h"

namespace py = pybind11;
using namespace emulation;
using namespace kshot;

namespace {

using Numbers = std::vector<int64_t>;

// Batch, channels, then of height and of width: input, output, kernel, stride, padding, dilation.
ConvGeometry geometry_of(const Numbers& numbers) {
  const auto axis = [&](size_t at) {
    return ConvAxis{numbers.at(at),     numbers.at(at + 1), numbers.at(at + 2),
                    numbers.at(at + 3), numbers.at(at + 4), numbers.at(at + 5)};
  };
  return {numbers.at(0), numbers.at(1), numbers.at(1), axis(2), axis(8)};
}

DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  return name == "bfloat16" ? DType::kBFloat16 : DType::kFloat16;
}

py::dtype array_dtype(DType dtype) {
  if (dtype == DType::kFloat32) return py::dtype::of<float>();
  if (dtype == DType::kFloat64) return py::dtype::of<double>();
  return dtype == DType::kFloat16 ? py::dtype("float16") : py::dtype("uint16");
}

py::dtype sum_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? py::dtype::of<double>() : py::dtype::of<float>();
}

cuda::Layout layout_of(bool channels_last) {
  return channels_last ? cuda::Layout::kChannelsLast : cuda::Layout::kContiguous;
}

Numbers image_shape(const ConvGeometry& geometry, int64_t height, int64_t width, bool channels_last) {
  if (channels_last) return {geometry.batch, height, width, geometry.in_channels};
  return {geometry.batch, geometry.in_channels, height, width};
}

// A dictionary with `strides` of copy, channel and tap, a code and a gate whose rows are per sample or one.
struct Weight {
  Weight(const py::array& dictionary, const Numbers& strides, const py::object& code, const py::object& gate)
      : dictionary_("dictionary", dictionary), code_("code", code), gate_("gate", gate) {
    const auto row = [](const py::object& object) -> int64_t {
      if (object.is_none()) return 0;
      const auto array = py::cast<py::array>(object);
      return array.ndim() == 2 ? array.shape(1) : 0;
    };
    args = {dictionary_.data(), dictionary.shape(0), strides.at(0), strides.at(1), strides.at(2),
            code_.data(),       row(code),           gate_.data(),  row(gate)};
  }
  Weight(const Weight&) = delete;

  cuda::DepthwiseWeight args;

 private:
  Input dictionary_, code_, gate_;
};

py::array conv2d(const std::string& dtype_name, bool channels_last, const Numbers& numbers,
                 const py::array& input, const py::array& dictionary, const Numbers& strides,
                 const py::object& code, const py::object& gate, const py::object& bias) {
  const DType dtype = dtype_of(dtype_name);
  const ConvGeometry geometry = geometry_of(numbers);
  const Weight weight(dictionary, strides, code, gate);
  const Input x("input", input), b("bias", bias);
  const int64_t bias_stride =
      !bias.is_none() && py::cast<py::array>(bias).ndim() == 2 ? geometry.in_channels : 0;
  const Output y("output",
                 image_shape(geometry, geometry.height.output, geometry.width.output, channels_last),
                 array_dtype(dtype));
  cuda::depthwise_conv2d({dtype,
                          layout_of(channels_last),
                          geometry,
                          weight.args,
                          {x.data(), geometry.in_channels},
                          b.data(),
                          bias_stride,
                          y.data()},
                         nullptr);
  return y.numpy();
}

py::array input_gradient(const std::string& dtype_name, bool channels_last, const Numbers& numbers,
                         const py::array& grad_output, const py::array& dictionary, const Numbers& strides,
                         const py::object& code, const py::object& gate) {
  const DType dtype = dtype_of(dtype_name);
  const ConvGeometry geometry = geometry_of(numbers);
  const Weight weight(dictionary, strides, code, gate);
  const Input grad("grad_output", grad_output);
  const Output result("grad_input",
                      image_shape(geometry, geometry.height.input, geometry.width.input, channels_last),
                      array_dtype(dtype));
  cuda::depthwise_input_gradient({dtype,
                                  layout_of(channels_last),
                                  geometry,
                                  weight.args,
                                  {grad.data(), geometry.in_channels},
                                  result.data()},
                                 nullptr);
  return result.numpy();
}

// Gradients of the mixed taps, [groups, taps, C] or [groups, C, taps], and of the bias, [groups, C].
py::tuple weight_gradient(const std::string& dtype_name, bool channels_last, const Numbers& numbers,
                          const py::array& input, const py::array& grad_output, bool per_sample,
                          bool by_tap) {
  const DType dtype = dtype_of(dtype_name);
  const ConvGeometry geometry = geometry_of(numbers);
  const int64_t groups = per_sample ? geometry.batch : 1, channels = geometry.in_channels,
                taps = geometry.taps();
  const Input x("input", input), grad("grad_output", grad_output);
  const Output grad_weight("grad_weight",
                           by_tap ? Numbers{groups, taps, channels} : Numbers{groups, channels, taps},
                           sum_dtype(dtype));
  const Output grad_bias("grad_bias", {groups, channels}, sum_dtype(dtype));
  cuda::DepthwiseWeightGradient args{dtype,
                                     layout_of(channels_last),
                                     geometry,
                                     per_sample,
                                     {x.data(), channels},
                                     {grad.data(), channels},
                                     grad_weight.data(),
                                     taps * channels,
                                     by_tap ? 1 : taps,
                                     by_tap ? channels : 1,
                                     grad_bias.data(),
                                     nullptr};
  const Scratch workspace(cuda::depthwise_weight_gradient_workspace(args));
  args.workspace = workspace.data();
  cuda::depthwise_weight_gradient(args, nullptr);
  return py::make_tuple(grad_weight.numpy(), grad_bias.numpy());
}

}  // namespace

KSHOT_EMULATION_MODULE(module) {
  module.def("conv2d", &conv2d);
  module.def("input_gradient", &input_gradient);
  module.def("weight_gradient", &weight_gradient);
}
