// Kernels: csrc/cuda/dense_forward.cu csrc/cuda/dense_input_gradient.cu
// Kernels: csrc/cuda/dense_weight_gradient.cu csrc/cuda/dense_per_sample_gradient.cu
#include "cuda/dense_conv2d.h"

#include "emulation/binding.h"

namespace py = pybind11;
using namespace emulation;
using namespace kshot;

namespace {

// (input, output, kernel, stride, padding, dilation)
ConvAxis axis_of(const std::vector<int64_t>& sizes) {
  return {sizes.at(0), sizes.at(1), sizes.at(2), sizes.at(3), sizes.at(4), sizes.at(5)};
}

struct Problem {
  std::string precision;  // float32, tf32, float16, bfloat16
  ConvGeometry geometry;

  DType dtype() const {
    if (precision == "float16") return DType::kFloat16;
    return precision == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
  }
  bool allow_tf32() const { return precision == "tf32"; }
  py::dtype element() const {
    if (precision == "float16") return py::dtype("float16");
    return precision == "bfloat16" ? py::dtype("uint16") : py::dtype("float32");
  }
  std::vector<int64_t> input_shape() const {
    return {geometry.batch, geometry.height.input, geometry.width.input, geometry.in_channels};
  }
  std::vector<int64_t> output_shape() const {
    return {geometry.batch, geometry.height.output, geometry.width.output, geometry.out_channels};
  }
};

Problem problem_of(const std::string& precision, const std::vector<int64_t>& channels,
                   const std::vector<int64_t>& height, const std::vector<int64_t>& width) {
  return {precision, {channels.at(0), channels.at(1), channels.at(2), axis_of(height), axis_of(width)}};
}

// A weight [K, C_out, KH, KW, C_in], of which the geometry's channels are the leading ones; code [K] or [N,
// K].
class Weight {
 public:
  Weight(const py::array& weight, const py::object& code)
      : weight_("weight", weight),
        code_("code", code),
        shape_(weight.shape(), weight.shape() + weight.ndim()) {
    if (!code.is_none() && py::cast<py::array>(code).ndim() == 2) code_stride_ = shape_[0];
  }

  cuda::DenseDictionary dictionary() const {
    const int64_t tap = shape_[4], out = shape_[2] * shape_[3] * tap;
    return {weight_.data(),      shape_[1] * out, out, tap, static_cast<int32_t>(shape_[0]),
            code_.data<float>(), code_stride_};
  }
  int64_t shots() const { return shape_[0]; }

 private:
  Input weight_, code_;
  std::vector<int64_t> shape_;
  int64_t code_stride_ = 0;
};

// [C_out], [N, C_out] or None.
class Channels {
 public:
  Channels(const char* name, const py::object& values) : values_(name, values) {
    if (values.is_none()) return;
    const auto array = py::cast<py::array>(values);
    if (array.ndim() == 2) stride_ = array.shape(1);
  }
  cuda::DenseChannels channels() const { return {values_.data<float>(), stride_}; }

 private:
  Input values_;
  int64_t stride_ = 0;
};

py::array forward(const std::string& precision, const std::vector<int64_t>& channels,
                  const std::vector<int64_t>& height, const std::vector<int64_t>& width,
                  const py::array& input, const py::array& weight, const py::object& code,
                  const py::object& gate, const py::object& bias) {
  const Problem problem = problem_of(precision, channels, height, width);
  const Input x("input", input);
  const Weight w(weight, code);
  const Channels gates("gate", gate), biases("bias", bias);
  const Output output("output", problem.output_shape(), problem.element());
  cuda::dense_forward({problem.dtype(),
                       problem.allow_tf32(),
                       problem.geometry,
                       w.dictionary(),
                       {x.data(), problem.geometry.in_channels},
                       gates.channels(),
                       biases.channels(),
                       output.data()},
                      nullptr);
  return output.numpy();
}

py::array input_gradient(const std::string& precision, const std::vector<int64_t>& channels,
                         const std::vector<int64_t>& height, const std::vector<int64_t>& width,
                         const py::array& grad, const py::array& weight, const py::object& code,
                         const py::object& gate) {
  const Problem problem = problem_of(precision, channels, height, width);
  const Input g("grad", grad);
  const Weight w(weight, code);
  const Channels gates("gate", gate);
  const Output output("grad_input", problem.input_shape(), problem.element());
  cuda::dense_input_gradient({problem.dtype(),
                              problem.allow_tf32(),
                              problem.geometry,
                              w.dictionary(),
                              {g.data(), problem.geometry.out_channels},
                              gates.channels(),
                              output.data()},
                             nullptr);
  return output.numpy();
}

py::array weight_gradient(const std::string& precision, const std::vector<int64_t>& channels,
                          const std::vector<int64_t>& height, const std::vector<int64_t>& width,
                          const py::array& grad, const py::array& input) {
  const Problem problem = problem_of(precision, channels, height, width);
  const ConvGeometry& geometry = problem.geometry;
  const Input g("grad", grad), x("input", input);
  const Output gradient(
      "gradient",
      {geometry.out_channels, geometry.height.kernel, geometry.width.kernel, geometry.in_channels},
      py::dtype::of<float>());
  cuda::DenseWeightGradient args{problem.dtype(),
                                 problem.allow_tf32(),
                                 geometry,
                                 {g.data(), geometry.out_channels},
                                 {x.data(), geometry.in_channels},
                                 gradient.data<float>(),
                                 nullptr};
  const Scratch workspace(cuda::dense_weight_gradient_workspace(args));
  args.workspace = workspace.data();
  cuda::dense_weight_gradient(args, nullptr);
  return gradient.numpy();
}

// Changes grad_weight, of the weight's shape, and returns the gradient of the code.
py::array per_sample_gradient(const std::string& precision, const std::vector<int64_t>& channels,
                              const std::vector<int64_t>& height, const std::vector<int64_t>& width,
                              const py::array& grad, const py::array& input, const py::array& weight,
                              const py::object& code, const py::object& gate, const py::array& grad_weight) {
  const Problem problem = problem_of(precision, channels, height, width);
  const Input g("grad", grad), x("input", input);
  const Weight w(weight, code);
  const Channels gates("gate", gate);
  InOut weights("grad_weight", grad_weight);
  const Output codes("grad_code", {problem.geometry.batch, w.shots()}, py::dtype::of<float>());
  cuda::DensePerSampleGradient args{problem.dtype(),
                                    problem.allow_tf32(),
                                    problem.geometry,
                                    w.dictionary(),
                                    {g.data(), problem.geometry.out_channels},
                                    {x.data(), problem.geometry.in_channels},
                                    gates.channels(),
                                    weights.data<float>(),
                                    codes.data<float>(),
                                    nullptr};
  const Scratch workspace(cuda::dense_per_sample_gradient_workspace(args));
  args.workspace = workspace.data();
  cuda::dense_per_sample_gradient(args, nullptr);
  weights.update();
  return codes.numpy();
}

}  // namespace

KSHOT_EMULATION_MODULE(module) {
  module.def("forward", &forward);
  module.def("input_gradient", &input_gradient);
  module.def("weight_gradient", &weight_gradient);
  module.def("per_sample_gradient", &per_sample_gradient);
}
