// Kernels: csrc/cuda/batch_norm_moments.cu csrc/cuda/batch_norm_act.cu
// Kernels: csrc/cuda/batch_norm_act_backward.cu
#include "cuda/batch_norm_act.h"

#include "arguments.h"

namespace py = pybind11;
using namespace emulation;
using kshot::DType;

// The mean and the variance of an array [positions, channels].
py::tuple moments(int dtype, const py::array& input) {
  const Input x("input", input);
  kshot::cuda::BatchNormMoments args{};
  args.dtype = static_cast<DType>(dtype);
  args.positions = input.shape(0);
  args.channels = input.shape(1);
  const Output mean("mean", {args.channels}, sum_dtype(args.dtype));
  const Output variance("variance", {args.channels}, sum_dtype(args.dtype));
  const Scratch workspace(kshot::cuda::batch_norm_moments_workspace(args));
  args.input = {x.data(), args.channels};
  args.workspace = workspace.data();
  args.mean = mean.data();
  args.variance = variance.data();
  kshot::cuda::batch_norm_moments(args, nullptr);
  return py::make_tuple(mean.numpy(), variance.numpy());
}

// What forward and backward share: (dtype, activation, samples, eps, input [positions, channels], residual,
// mean, variance, weight, bias). Weight and bias are [C], or [N, C] with parameters per sample.
struct Problem {
  Input input, residual, mean, variance, weight, bias;
  kshot::cuda::BatchNormAct args{};
  std::vector<int64_t> shape;

  explicit Problem(const py::tuple& problem)
      : input("input", problem[4]),
        residual("residual", problem[5]),
        mean("mean", problem[6]),
        variance("variance", problem[7]),
        weight("weight", problem[8]),
        bias("bias", problem[9]) {
    const auto x = problem[4].cast<py::array>();
    shape = {x.shape(0), x.shape(1)};
    args.dtype = static_cast<DType>(problem[0].cast<int>());
    args.activation = static_cast<kshot::Activation>(problem[1].cast<int>());
    args.channels = x.shape(1);
    args.samples = problem[2].cast<int64_t>();
    args.positions_per_sample = args.samples > 0 ? x.shape(0) / args.samples : 0;
    args.eps = problem[3].cast<double>();
    args.input = {input.data(), args.channels};
    args.residual = {residual.data(), args.channels};
    args.mean = mean.data();
    args.variance = variance.data();
    args.weight = weight.data();
    args.bias = bias.data();
    args.weight_stride = stride_of(problem[8]);
    args.bias_stride = stride_of(problem[9]);
  }

 private:
  int64_t stride_of(const py::object& parameter) const {
    return !parameter.is_none() && parameter.cast<py::array>().ndim() == 2 ? args.channels : 0;
  }
};

py::array forward(const py::tuple& arguments) {
  Problem problem(arguments);
  const Output output("output", problem.shape, element_dtype(problem.args.dtype));
  problem.args.output = output.data();
  kshot::cuda::batch_norm_act(problem.args, nullptr);
  return output.numpy();
}

// Returns the sums [samples, 2, C], the input's gradient, and the residual's or None.
py::tuple backward(const py::tuple& arguments, const py::array& grad_output, bool training,
                   bool need_residual) {
  Problem problem(arguments);
  const Input grad("grad_output", grad_output);
  const int64_t channels = problem.args.channels;
  const py::dtype elements = element_dtype(problem.args.dtype), of_sums = sum_dtype(problem.args.dtype);
  const Output sums("sums", {problem.args.samples, 2, channels}, of_sums);
  const Output means("mean_grads", {2, channels}, of_sums);
  const Output grad_input("grad_input", problem.shape, elements);
  const Output grad_residual("grad_residual", problem.shape, elements);
  kshot::cuda::BatchNormActBackward args{};
  args.forward = problem.args;
  args.grad_output = {grad.data(), channels};
  args.sums = sums.data();
  args.mean_grads = training ? means.data() : nullptr;
  args.grad_input = grad_input.data();
  args.grad_residual = need_residual ? grad_residual.data() : nullptr;
  const Scratch workspace(kshot::cuda::batch_norm_act_sums_workspace(args));
  args.workspace = workspace.data();
  kshot::cuda::batch_norm_act_sums(args, nullptr);
  kshot::cuda::batch_norm_act_backward(args, nullptr);
  py::object of_residual = py::none();
  if (need_residual) of_residual = grad_residual.numpy();
  return py::make_tuple(sums.numpy(), grad_input.numpy(), of_residual);
}

KSHOT_EMULATION_MODULE(module) {
  module.def("moments", &moments);
  module.def("forward", &forward);
  module.def("backward", &backward);
}
