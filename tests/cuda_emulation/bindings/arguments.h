// Arguments of the kernels from what the tests pass.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"
#include "common/mix_geometry.h"
#include "emulation/binding.h"

// The fields in their order.
inline kshot::MixGeometry geometry_of(const std::vector<int64_t>& fields) {
  return {fields.at(0), fields.at(1), fields.at(2), fields.at(3), fields.at(4),
          fields.at(5), fields.at(6), fields.at(7), fields.at(8), fields.at(9)};
}

inline pybind11::dtype element_dtype(kshot::DType dtype) {
  const char* const names[] = {"float32", "float64", "uint16", "float16"};
  return pybind11::dtype(names[static_cast<int>(dtype)]);
}

inline pybind11::dtype sum_dtype(kshot::DType dtype) {
  return pybind11::dtype(dtype == kshot::DType::kFloat64 ? "float64" : "float32");
}

// A buffer of zeros that a kernel adds to or fills in part, and the array that it becomes.
class Zeros {
 public:
  Zeros(const char* name, const pybind11::object& like)
      : array_(pybind11::module_::import("numpy").attr("zeros_like")(like)), buffer_(name, array_) {}
  void* data() const { return buffer_.data(); }
  pybind11::object numpy() {
    buffer_.update();
    return array_;
  }

 private:
  pybind11::object array_;
  emulation::InOut buffer_;
};
