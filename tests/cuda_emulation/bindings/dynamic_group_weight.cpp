// Kernels: csrc/cuda/dynamic_group_weight.cu csrc/cuda/dynamic_group_weight_backward.cu
#include "cuda/dynamic_group_weight.h"

#include "arguments.h"

namespace py = pybind11;
using namespace emulation;
using kshot::DType;

// (dtype, geometry, weight, code, gates, row_block, block)
struct Grouping {
  Input weight, code, gates;
  kshot::GroupWeight args;

  explicit Grouping(const py::tuple& job)
      : weight("weight", job[2]), code("code", job[3]), gates("gates", job[4]) {
    args.mixing.geometry = geometry_of(job[1].cast<std::vector<int64_t>>());
    args.mixing.dtype = static_cast<DType>(job[0].cast<int>());
    args.mixing.weight = weight.data();
    args.mixing.code = code.data();
    args.mixing.gate = nullptr;
    args.mixing.gate_stride = 0;
    args.mixing.output = nullptr;
    args.groups.gates = py::len(job[4]);
    args.groups.row_block = job[5].cast<int64_t>();
    args.groups.block = job[6].cast<int64_t>();
    args.groups.values = gates.data();
  }
};

py::object dynamic_group_weight(const py::tuple& job) {
  Grouping grouping(job);
  kshot::GroupWeight& args = grouping.args;
  const kshot::MixGeometry& geometry = args.mixing.geometry;
  const Output output("effective", std::vector<int64_t>{geometry.samples, geometry.sample_size},
                      element_dtype(args.mixing.dtype));
  args.mixing.output = output.data();
  kshot::cuda::dynamic_group_weight(args, nullptr);
  return output.numpy();
}

// The gradients of weight, code and gates, None where not asked for.
py::tuple dynamic_group_weight_backward(const py::tuple& job, const py::object& grad_array, bool need_weight,
                                        bool need_code, bool need_gates) {
  const Grouping grouping(job);
  const Input grad("grad", grad_array);
  const kshot::EffectiveWeight& mixing = grouping.args.mixing;
  const kshot::MixGeometry& geometry = mixing.geometry;
  const py::dtype sums = sum_dtype(mixing.dtype);
  const Output weight("grad_weight", std::vector<int64_t>{geometry.shots * geometry.shot_stride},
                      element_dtype(mixing.dtype));
  const Output code("grad_code", std::vector<int64_t>{geometry.samples, geometry.shots}, sums);
  const Output gates("grad_gates", std::vector<int64_t>{grouping.args.groups.gates}, sums);
  kshot::cuda::DynamicGroupWeightBackward args{};
  args.forward = grouping.args;
  args.grad = grad.data();
  args.grad_weight = need_weight ? weight.data() : nullptr;
  args.grad_code = need_code ? code.data() : nullptr;
  args.grad_gates = need_gates ? gates.data() : nullptr;
  const Scratch workspace(kshot::cuda::dynamic_group_weight_backward_workspace(args));
  kshot::cuda::dynamic_group_weight_backward(args, workspace.data(), nullptr);
  const auto given = [](bool needed, const Output& output) -> py::object {
    if (needed) return output.numpy();
    return py::none();
  };
  return py::make_tuple(given(need_weight, weight), given(need_code, code), given(need_gates, gates));
}

KSHOT_EMULATION_MODULE(module) {
  module.def("dynamic_group_weight", &dynamic_group_weight);
  module.def("dynamic_group_weight_backward", &dynamic_group_weight_backward);
}
