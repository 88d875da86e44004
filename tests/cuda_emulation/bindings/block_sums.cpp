// Kernels: example/block_sums.cu
#include "example/block_sums.h"

#include "emulation/binding.h"

namespace py = pybind11;
using namespace emulation;

// The sum of every 256 values; the array is float32.
py::array block_sums(const py::array& values) {
  const Input input("values", values);
  const int64_t size = values.size(), blocks = example::block_sums_blocks(size);
  const Output sums("sums", {blocks}, py::dtype::of<float>());
  example::block_sums({input.data<float>(), sums.data<float>(), size}, nullptr);
  return sums.numpy();
}

KSHOT_EMULATION_MODULE(module) {
  module.def("block_sums", &block_sums);
}
