// Kernels: csrc/cuda/adamw_update.cu
#include "cuda/adamw_update.h"

#include "updates.h"

namespace py = pybind11;

// States: exp_avg, exp_avg_sq, max_exp_avg_sq. Settings: step, lr, beta1, beta2, eps, weight_decay.
py::list adamw_update(const py::list& jobs) {
  UpdateJobs arrays;
  std::vector<kshot::AdamwUpdate> args;
  for (const auto& each : jobs) {
    const auto job = arrays.add(each.cast<py::tuple>());
    const auto& s = job.settings;
    args.push_back(
        {job.update, job.states.at(0), job.states.at(1), job.states.at(2), s.at(2), s.at(3), s.at(4)});
    args.back().set_step(s.at(0), s.at(1), s.at(5));
  }
  kshot::cuda::adamw_update(args.data(), static_cast<int64_t>(args.size()), nullptr);
  return arrays.results();
}

KSHOT_EMULATION_MODULE(module) {
  module.def("adamw_update", &adamw_update);
}
