// Kernels: barriers.cu pipeline.cu accesses.cu
#include "cases.h"
#include "emulation/binding.h"

namespace py = pybind11;

namespace {

// Runs a case on float32 values; one result for every value.
template <void (*run)(const broken::Case&)>
py::array call(const py::array& values, bool broken) {
  const emulation::Input input("values", values);
  const emulation::Output results("results", {values.size()}, py::dtype::of<float>());
  run({input.data<float>(), results.data<float>(), values.size(), broken});
  return results.numpy();
}

}  // namespace

#define CASE(name) module.def(#name, &call<&broken::name>)

KSHOT_EMULATION_MODULE(module) {
  CASE(missing_barrier);
  CASE(missing_barrier_before_overwrite);
  CASE(missing_barrier_before_refill);
  CASE(missing_pipeline_wait);
  CASE(missing_barrier_after_wait);
  CASE(missing_syncwarp);
  CASE(shuffle_for_syncwarp);
  CASE(off_by_one_tile);
  CASE(unwritten_output);
  CASE(divergent_barrier);
  CASE(out_of_bounds_load);
  CASE(out_of_bounds_store);
  CASE(out_of_bounds_shared_store);
  CASE(out_of_bounds_static_shared);
  CASE(shuffle_with_ended_lanes);
  CASE(misaligned_vector);
  CASE(misaligned_async_copy);
  CASE(float_atomics);
  CASE(two_blocks_write_one_word);
  CASE(block_reads_another_blocks_result);
  CASE(integer_division_by_zero);
}
