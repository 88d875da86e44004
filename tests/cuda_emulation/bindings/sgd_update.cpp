// Kernels: csrc/cuda/sgd_update.cu
#include "cuda/sgd_update.h"

#include <deque>

#include "arguments.h"

namespace py = pybind11;
using namespace emulation;

// A copy of an array, updated by kernels.
struct Updated {
  py::object array;
  InOut buffer;

  explicit Updated(const char* name, const py::object& from)
      : array(from.is_none() ? py::object(py::none()) : from.attr("copy")()), buffer(name, array) {}
  py::object numpy() {
    buffer.update();
    return array;
  }
};

// Each job is (dtype, geometry, weight, momentum_buffer, grad, uses, lr, momentum, dampening, weight_decay,
// nesterov, maximize), a use (code, gate, grad, rows, run_length). Returns weight and momentum buffer of
// each.
py::list sgd_update(const py::list& jobs) {
  std::deque<Updated> weights, buffers;
  std::deque<Input> inputs;
  std::deque<std::vector<kshot::SgdUse>> uses;
  std::vector<kshot::SgdUpdate> args;
  const auto input = [&](const char* name, const py::handle& array) {
    inputs.emplace_back(name, py::reinterpret_borrow<py::object>(array));
    return inputs.back().data();
  };
  for (const auto& each : jobs) {
    const auto job = each.cast<py::tuple>();
    weights.emplace_back("weight", job[2]);
    buffers.emplace_back("momentum_buffer", job[3]);
    uses.emplace_back();
    for (const auto& one : job[5].cast<py::list>()) {
      const auto use = one.cast<py::tuple>();
      uses.back().push_back({input("code", use[0]), input("gate", use[1]), input("use", use[2]),
                             use[3].cast<int64_t>(), use[4].cast<int64_t>()});
    }
    kshot::SgdUpdate own{};
    own.geometry = geometry_of(job[1].cast<std::vector<int64_t>>());
    own.dtype = static_cast<kshot::DType>(job[0].cast<int>());
    own.weight = weights.back().buffer.data();
    own.momentum_buffer = buffers.back().buffer.data();
    own.grad = input("grad", job[4]);
    own.uses = uses.back().data();
    own.use_count = static_cast<int64_t>(uses.back().size());
    own.lr = job[6].cast<double>();
    own.momentum = job[7].cast<double>();
    own.dampening = job[8].cast<double>();
    own.weight_decay = job[9].cast<double>();
    own.nesterov = job[10].cast<bool>();
    own.maximize = job[11].cast<bool>();
    args.push_back(own);
  }
  kshot::cuda::sgd_update(args.data(), static_cast<int64_t>(args.size()), nullptr);
  py::list results;
  for (size_t i = 0; i < args.size(); ++i) {
    results.append(py::make_tuple(weights[i].numpy(), buffers[i].numpy()));
  }
  return results;
}

KSHOT_EMULATION_MODULE(module) {
  module.def("sgd_update", &sgd_update);
}
