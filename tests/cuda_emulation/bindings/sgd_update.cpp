// Kernels: csrc/cuda/sgd_update.cu
#include "cuda/sgd_update.h"

#include "updates.h"

namespace py = pybind11;

// States: the momentum buffer. Settings: lr, momentum, dampening, weight_decay, nesterov.
py::list sgd_update(const py::list& jobs) {
  UpdateJobs arrays;
  std::vector<kshot::SgdUpdate> args;
  for (const auto& each : jobs) {
    const auto job = arrays.add(each.cast<py::tuple>());
    const auto& s = job.settings;
    args.push_back({job.update, job.states.at(0), s.at(0), s.at(1), s.at(2), s.at(3), s.at(4) != 0});
  }
  kshot::cuda::sgd_update(args.data(), static_cast<int64_t>(args.size()), nullptr);
  return arrays.results();
}

KSHOT_EMULATION_MODULE(module) {
  module.def("sgd_update", &sgd_update);
}
