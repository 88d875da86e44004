// Kernels: csrc/cuda/effective_weight.cu csrc/cuda/effective_weight_backward.cu
#include "cuda/effective_weight.h"

#include <deque>

#include "arguments.h"

namespace py = pybind11;
using namespace emulation;
using kshot::DType;

// One dictionary: (dtype, geometry, weight, code, gate, gate_stride).
struct Mixing {
  Input weight, code, gate;
  kshot::EffectiveWeight args;

  explicit Mixing(const py::tuple& job)
      : weight("weight", job[2]), code("code", job[3]), gate("gate", job[4]) {
    args.geometry = geometry_of(job[1].cast<std::vector<int64_t>>());
    args.dtype = static_cast<DType>(job[0].cast<int>());
    args.weight = weight.data();
    args.code = code.data();
    args.gate = gate.data();
    args.gate_stride = job[5].cast<int64_t>();
    args.output = nullptr;
  }
};

py::list effective_weight(const py::list& jobs) {
  std::deque<Mixing> mixings;
  std::deque<Output> outputs;
  std::vector<kshot::EffectiveWeight> args;
  for (const auto& job : jobs) {
    mixings.emplace_back(job.cast<py::tuple>());
    args.push_back(mixings.back().args);
    const kshot::MixGeometry& geometry = args.back().geometry;
    outputs.emplace_back("effective", std::vector<int64_t>{geometry.samples, geometry.sample_size},
                         element_dtype(args.back().dtype));
    args.back().output = outputs.back().data();
  }
  kshot::cuda::effective_weight(args.data(), static_cast<int64_t>(args.size()), nullptr);
  py::list results;
  for (const Output& output : outputs) results.append(output.numpy());
  return results;
}

// Each job is (mixing, grad, need_weight, need_code, need_gate). With `one_code`, all share the first one's
// dL/dcode. Returns a triple of gradients for each job, None where not asked for.
py::list effective_weight_backward(const py::list& jobs, bool one_code) {
  std::deque<Mixing> mixings;
  std::deque<Input> grads;
  std::deque<Zeros> grad_weights;
  std::deque<Output> grad_codes, grad_gates;
  std::vector<kshot::cuda::EffectiveWeightBackward> args;
  for (const auto& each : jobs) {
    const auto job = each.cast<py::tuple>();
    const auto mixing = job[0].cast<py::tuple>();
    mixings.emplace_back(mixing);
    grads.emplace_back("grad", job[1]);
    kshot::cuda::EffectiveWeightBackward own{};
    own.forward = mixings.back().args;
    own.grad = grads.back().data();
    const kshot::MixGeometry& geometry = own.forward.geometry;
    const py::dtype sums = sum_dtype(own.forward.dtype);
    if (job[2].cast<bool>()) {
      grad_weights.emplace_back("grad_weight", mixing[2]);
      own.grad_weight = grad_weights.back().data();
    }
    if (job[3].cast<bool>()) {
      if (!one_code || grad_codes.empty()) {
        grad_codes.emplace_back("grad_code", std::vector<int64_t>{geometry.samples, geometry.shots}, sums);
      }
      own.grad_code = grad_codes.back().data();
    }
    if (job[4].cast<bool>()) {
      const int64_t rows = geometry.rows * (own.forward.gate_stride ? geometry.samples : 1);
      grad_gates.emplace_back("grad_gate", std::vector<int64_t>{rows}, sums);
      own.grad_gate = grad_gates.back().data();
    }
    args.push_back(own);
  }
  const auto count = static_cast<int64_t>(args.size());
  const Scratch workspace(kshot::cuda::effective_weight_backward_workspace(args.data(), count));
  kshot::cuda::effective_weight_backward(args.data(), count, workspace.data(), nullptr);
  py::list results;
  size_t weight = 0, code = 0, gate = 0;
  for (const auto& own : args) {
    py::object of_weight = py::none(), of_code = py::none(), of_gate = py::none();
    if (own.grad_weight) of_weight = grad_weights[weight++].numpy();
    if (own.grad_code) of_code = grad_codes[one_code ? 0 : code++].numpy();
    if (own.grad_gate) of_gate = grad_gates[gate++].numpy();
    results.append(py::make_tuple(of_weight, of_code, of_gate));
  }
  return results;
}

KSHOT_EMULATION_MODULE(module) {
  module.def("effective_weight", &effective_weight);
  module.def("effective_weight_backward", &effective_weight_backward);
}
