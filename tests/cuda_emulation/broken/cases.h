// Kernels with one mistake each, and their correct twins: what the builds of the emulator must find.
#pragma once

#include <cstdint>

namespace broken {

constexpr int kThreads = 128;

struct Case {
  const float* values;  // `size` of them
  float* results;       // `size` of them
  int64_t size;         // at least one block
  bool broken;
};

inline int64_t blocks_of(const Case& c) {
  return (c.size + kThreads - 1) / kThreads;
}

// Every one copies the values, or does a little more that its file tells.
void missing_barrier(const Case& c);
void missing_barrier_before_overwrite(const Case& c);
void missing_barrier_before_refill(const Case& c);
void missing_pipeline_wait(const Case& c);
void missing_barrier_after_wait(const Case& c);
void missing_syncwarp(const Case& c);
void shuffle_for_syncwarp(const Case& c);
void off_by_one_tile(const Case& c);
void unwritten_output(const Case& c);
void divergent_barrier(const Case& c);
void out_of_bounds_load(const Case& c);
void out_of_bounds_store(const Case& c);
void out_of_bounds_shared_store(const Case& c);
void out_of_bounds_static_shared(const Case& c);
void shuffle_with_ended_lanes(const Case& c);
void misaligned_vector(const Case& c);
void misaligned_async_copy(const Case& c);
void float_atomics(const Case& c);
void two_blocks_write_one_word(const Case& c);
void block_reads_another_blocks_result(const Case& c);
void integer_division_by_zero(const Case& c);

}  // namespace broken
