// Kernels: warp.cu numbers.cu matrices.cu memory.cu mistakes.cu
#include "emulation/binding.h"
#include "kernels.h"

namespace py = pybind11;
using emulation::InOut;
using emulation::Input;
using emulation::Output;

namespace {

template <class T>
py::dtype of() {
  return py::dtype::of<T>();
}

py::array shuffle_ints(const py::array& values, const py::array& operands, int kind, int width) {
  const Input from("values", values), by("operands", operands);
  const Output received("received", {32}, of<int>());
  semantics::shuffle_ints(from.data<int>(), by.data<int>(), received.data<int>(),
                          static_cast<semantics::Kind>(kind), width);
  return received.numpy();
}

py::array shuffle_doubles(const py::array& values, int lane_mask) {
  const Input from("values", values);
  const Output received("received", {32}, of<double>());
  semantics::shuffle_doubles(from.data<double>(), received.data<double>(), lane_mask);
  return received.numpy();
}

py::array shuffle_halves(const py::array& values) {
  const Input from("values", values);
  const Output received("received", {32}, of<int>());
  semantics::shuffle_halves(from.data<int>(), received.data<int>());
  return received.numpy();
}

py::array votes(const py::array& predicates) {
  const Input from("predicates", predicates);
  const Output results("results", {64, 6}, of<int>());
  semantics::votes(from.data<int>(), results.data<int>());
  return results.numpy();
}

py::array coordinates(int gx, int gy, int gz, int bx, int by, int bz) {
  const Output seen("seen", {gx * gy * gz, bx * by * bz, 4, 3}, of<int>());
  semantics::coordinates(seen.data<int>(), gx, gy, gz, bx, by, bz);
  return seen.numpy();
}

template <void (*convert)(const float*, uint16_t*, float*, int64_t)>
py::tuple to_narrow(const py::array& values) {
  const Input from("values", values);
  const Output to("bits", {values.size()}, of<uint16_t>()), back("back", {values.size()}, of<float>());
  convert(from.data<float>(), to.data<uint16_t>(), back.data<float>(), values.size());
  return py::make_tuple(to.numpy(), back.numpy());
}

py::array double_to_float16(const py::array& values) {
  const Input from("values", values);
  const Output to("bits", {values.size()}, of<uint16_t>());
  semantics::double_to_float16(from.data<double>(), to.data<uint16_t>(), values.size());
  return to.numpy();
}

py::array to_tf32(const py::array& values) {
  const Input from("values", values);
  const Output to("values", {values.size()}, of<float>());
  semantics::to_tf32(from.data<float>(), to.data<float>(), values.size());
  return to.numpy();
}

void multiply(const py::array& a, const py::array& b, const py::array& c, int which, bool by_columns) {
  const Input from_a("a", a), from_b("b", b);
  InOut sums("c", c);
  semantics::multiply(from_a.data(), from_b.data(), sums.data<float>(), which, by_columns);
  sums.update();
}

py::array pipeline_batches(const py::array& values, int left) {
  const Input from("values", values);
  const Output seen("seen", {3}, of<float>());
  semantics::pipeline_batches(from.data<float>(), seen.data<float>(), left);
  return seen.numpy();
}

py::array pipeline_zero_fill(const py::array& values) {
  const Input from("values", values);
  const Output seen("seen", {12}, of<float>());
  semantics::pipeline_zero_fill(from.data<float>(), seen.data<float>());
  return seen.numpy();
}

void atomics(const py::array& values, const py::array& results) {
  const Input from("values", values);
  InOut to("results", results);
  semantics::atomics(from.data<int>(), to.data<int>(), values.size());
  to.update();
}

py::array bits(const py::array& values) {
  const Input from("values", values);
  const Output results("results", {values.size(), 5}, of<unsigned>());
  semantics::bits(from.data<unsigned>(), results.data<unsigned>(), values.size());
  return results.numpy();
}

py::array unwritten_shared() {
  const Output seen("seen", {3, 4}, of<float>());
  semantics::unwritten_shared(seen.data<float>());
  return seen.numpy();
}

py::array early_exit(const py::array& values) {
  const Input from("values", values);
  const Output results("results", {64}, of<float>());
  semantics::early_exit(from.data<float>(), results.data<float>());
  return results.numpy();
}

void mistake(const std::string& which) {
  const py::array_t<float> zeros(std::vector<py::ssize_t>{512});
  const Input results("results", zeros);
  semantics::mistake(which, const_cast<float*>(results.data<float>()));
}

}  // namespace

KSHOT_EMULATION_MODULE(module) {
  module.def("shuffle_ints", &shuffle_ints);
  module.def("shuffle_doubles", &shuffle_doubles);
  module.def("shuffle_halves", &shuffle_halves);
  module.def("votes", &votes);
  module.def("coordinates", &coordinates);
  module.def("to_float16", &to_narrow<&semantics::to_float16>);
  module.def("to_bfloat16", &to_narrow<&semantics::to_bfloat16>);
  module.def("double_to_float16", &double_to_float16);
  module.def("to_tf32", &to_tf32);
  module.def("multiply", &multiply);
  module.def("pipeline_batches", &pipeline_batches);
  module.def("pipeline_zero_fill", &pipeline_zero_fill);
  module.def("atomics", &atomics);
  module.def("bits", &bits);
  module.def("unwritten_shared", &unwritten_shared);
  module.def("early_exit", &early_exit);
  module.def("mistake", &mistake);
}
