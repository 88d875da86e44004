// Arguments of the optimisers' kernels from what the tests pass.
#pragma once

#include <deque>

#include "arguments.h"
#include "common/dictionary_update.h"

// A copy of an array, updated by kernels.
struct Updated {
  pybind11::object array;
  emulation::InOut buffer;

  Updated(const char* name, const pybind11::object& from)
      : array(from.is_none() ? pybind11::object(pybind11::none()) : from.attr("copy")()),
        buffer(name, array) {}
  pybind11::object numpy() {
    buffer.update();
    return array;
  }
};

// The jobs of one launch. Each is (dtype, geometry, weight, states, grad, uses, maximize, settings), a use
// (code, gate, grad, rows, run_length); states and settings are the optimiser's own.
class UpdateJobs {
 public:
  struct Job {
    kshot::DictionaryUpdate update;
    std::vector<void*> states;
    std::vector<double> settings;
  };

  Job add(const pybind11::tuple& job) {
    Job added{};
    written_.emplace_back();
    added.update.dtype = static_cast<kshot::DType>(job[0].cast<int>());
    added.update.geometry = geometry_of(job[1].cast<std::vector<int64_t>>());
    added.update.weight = write("weight", job[2]);
    for (const auto& state : job[3].cast<pybind11::tuple>()) added.states.push_back(write("state", state));
    added.update.grad = read("grad", job[4]);
    uses_.emplace_back();
    for (const auto& one : job[5].cast<pybind11::list>()) {
      const auto use = one.cast<pybind11::tuple>();
      uses_.back().push_back({read("code", use[0]), read("gate", use[1]), read("use", use[2]),
                              use[3].cast<int64_t>(), use[4].cast<int64_t>()});
    }
    added.update.uses = uses_.back().data();
    added.update.use_count = static_cast<int64_t>(uses_.back().size());
    added.update.maximize = job[6].cast<bool>();
    added.settings = job[7].cast<std::vector<double>>();
    return added;
  }

  // Weight and states of each job.
  pybind11::list results() {
    pybind11::list all;
    for (auto& of_one : written_) {
      pybind11::list arrays;
      for (Updated& updated : of_one) arrays.append(updated.numpy());
      all.append(arrays);
    }
    return all;
  }

 private:
  void* write(const char* name, const pybind11::handle& array) {
    written_.back().emplace_back(name, pybind11::reinterpret_borrow<pybind11::object>(array));
    return written_.back().back().buffer.data();
  }
  const void* read(const char* name, const pybind11::handle& array) {
    inputs_.emplace_back(name, pybind11::reinterpret_borrow<pybind11::object>(array));
    return inputs_.back().data();
  }

  std::deque<std::deque<Updated>> written_;
  std::deque<emulation::Input> inputs_;
  std::deque<std::vector<kshot::DictionaryUse>> uses_;
};
