// For the pybind11 modules that call launch functions: arrays of NumPy as buffers of device memory.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "emulation/control.h"
#include "emulation/device_memory.h"
#include "emulation/error.h"

namespace emulation {

namespace py = pybind11;

inline void check_contiguous(const py::array& array, const char* name) {
  if (!(array.flags() & py::array::c_style)) {
    throw py::value_error(std::string(name) + " is not contiguous in C order");
  }
}

// What kernels only read. None gives a null pointer.
class Input {
 public:
  Input(const char* name, const py::object& object) {
    if (object.is_none()) return;
    const auto array = py::cast<py::array>(object);
    check_contiguous(array, name);
    buffer_ = std::make_unique<DeviceBuffer>(name, array.nbytes(), array.data(), true);
  }

  template <class T = void>
  const T* data() const {
    return buffer_ ? static_cast<const T*>(buffer_->data()) : nullptr;
  }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
};

// What kernels read and change: update() brings the result to the array. None gives a null pointer.
class InOut {
 public:
  InOut(const char* name, const py::object& object) {
    if (object.is_none()) return;
    array_ = py::cast<py::array>(object);
    check_contiguous(array_, name);
    buffer_ = std::make_unique<DeviceBuffer>(name, array_.nbytes(), array_.data(), false);
  }

  template <class T = void>
  T* data() const {
    return buffer_ ? static_cast<T*>(buffer_->data()) : nullptr;
  }

  void update() {
    if (buffer_) std::memcpy(array_.mutable_data(), buffer_->data(), buffer_->bytes());
  }

 private:
  py::array array_;
  std::unique_ptr<DeviceBuffer> buffer_;
};

// What kernels write, NaN until then.
class Output {
 public:
  Output(const char* name, std::vector<int64_t> shape, const py::dtype& dtype)
      : shape_(std::move(shape)), dtype_(dtype) {
    int64_t bytes = dtype.itemsize();
    for (const int64_t size : shape_) bytes *= size;
    buffer_ = std::make_unique<DeviceBuffer>(name, static_cast<size_t>(bytes), nullptr, false);
  }

  template <class T = void>
  T* data() const {
    return static_cast<T*>(buffer_->data());
  }

  py::array numpy() const {
    py::array array(dtype_, shape_);
    std::memcpy(array.mutable_data(), buffer_->data(), buffer_->bytes());
    return array;
  }

 private:
  std::vector<int64_t> shape_;
  py::dtype dtype_;
  std::unique_ptr<DeviceBuffer> buffer_;
};

// Scratch memory, NaN when the launch begins; a null pointer for none.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (bytes > 0) {
      buffer_ = std::make_unique<DeviceBuffer>("workspace", static_cast<size_t>(bytes), nullptr, false);
    }
  }

  template <class T = void>
  T* data() const {
    return buffer_ ? static_cast<T*>(buffer_->data()) : nullptr;
  }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
};

inline void define_controls(py::module_& module) {
  module.def("_set_schedule", &set_schedule, py::arg("order"), py::arg("seed"), py::arg("shift"));
  module.def("_set_budget", &set_budget, py::arg("switches"), py::arg("seconds"));
  module.def("_start_counting", &start_counting);
  module.def("_stop_counting", &stop_counting);
}

}  // namespace emulation

// The module's functions are defined in the braces that follow.
#define KSHOT_EMULATION_MODULE(module)                   \
  static void define_kernels(pybind11::module_& module); \
  PYBIND11_MODULE(KSHOT_EMULATION_NAME, module) {        \
    emulation::define_controls(module);                  \
    define_kernels(module);                              \
  }                                                      \
  static void define_kernels(pybind11::module_& module)
