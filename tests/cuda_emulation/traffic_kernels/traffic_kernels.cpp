// Kernels: kernels.cu
#include "emulation/binding.h"
#include "kernels.h"

namespace py = pybind11;

namespace {

// Runs one kernel on float32 values, of which it makes at most as many.
py::array run(const std::string& which, const py::array& values) {
  const emulation::Input from("from", values);
  const emulation::Output to("to", {values.size()}, py::dtype::of<float>());
  traffic_kernels::run(which, from.data<float>(), to.data<float>());
  return to.numpy();
}

}  // namespace

KSHOT_EMULATION_MODULE(module) {
  module.def("run", &run);
}
