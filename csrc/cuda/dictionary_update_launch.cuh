// How updates become jobs of dictionary_update.cuh, and jobs launches.
#pragma once

#include <algorithm>

#include "cuda/dictionary_update.cuh"

namespace kshot::cuda {
namespace {

inline bool is_multiple(int64_t value, int64_t of) {
  return value % of == 0;
}

// The layout of the dictionary, as simple as its uses allow. The job has its states already.
template <class Job>
void lay_out(Job& job, const DictionaryUpdate& update, int64_t lanes) {
  const MixGeometry& geometry = update.geometry;
  job.weight = update.weight;
  job.grad = update.grad;
  job.shot_stride = geometry.shot_stride;
  job.sign = update.maximize ? -1 : 1;
  job.shots = static_cast<int>(geometry.shots);
  job.row_length = static_cast<int>(geometry.runs * geometry.run_length);
  bool whole_rows = true;
  for (int64_t u = 0; u < update.use_count; ++u) {
    whole_rows = whole_rows && update.uses[u].run_length == geometry.run_length;
  }
  job.runs = whole_rows ? 1 : static_cast<int>(geometry.runs);
  job.run_length = whole_rows ? job.row_length : static_cast<int>(geometry.run_length);
  job.use_count = static_cast<int>(update.use_count);
  job.vectors = is_multiple(geometry.shot_stride, lanes) && is_vector_aligned(update.weight) &&
                is_vector_aligned(update.grad);
  for (const void* state : job.states) job.vectors = job.vectors && is_vector_aligned(state);
}

inline UseJob use_job(const DictionaryUpdate& update, const DictionaryUse& use, const UpdateJob& job,
                      int64_t lanes) {
  UseJob result{};
  result.code = use.code;
  result.gate = use.gate;
  result.grad = use.grad;
  const bool whole_runs = use.run_length == update.geometry.run_length;
  result.size = static_cast<int>(
      std::min(use.rows * static_cast<int64_t>(job.row_length), update.geometry.shot_stride));
  result.run_length = whole_runs ? job.run_length : static_cast<int>(use.run_length);
  result.vectors = is_vector_aligned(use.grad) && is_multiple(result.size, lanes) &&
                   (whole_runs || (is_multiple(use.run_length, lanes) && is_multiple(job.run_length, lanes)));
  return result;
}

// Updates of one dtype, in as few launches as the parameters allow. `launch(jobs)` starts the kernel.
template <class T, class Job, class Update, class Launch>
void update_all(const Update* updates, int64_t count, const Launch& launch) {
  static_assert(sizeof(UpdateJobs<Job>) <= kParameterBytes, "the parameters of a kernel are limited");
  constexpr int64_t lanes = kVectorLanes<T>;
  UpdateJobs<Job> jobs;
  int use_count = 0;
  const auto launch_list = [&](const auto& list) {
    jobs.list = list;
    launch(jobs);
    use_count = 0;
  };
  JobBatch<decltype(jobs.list), decltype(launch_list)> batch(launch_list);
  for (int64_t i = 0; i < count; ++i) {
    Job job(updates[i]);
    lay_out(job, updates[i], lanes);
    const int64_t tile = kUpdateThreads * lanes;
    const int64_t tiles = (updates[i].geometry.shot_stride + tile - 1) / tile;
    const int64_t blocks = tiles * ((job.shots + kUpdateCopies - 1) / kUpdateCopies);
    if (batch.full_for(blocks) || use_count + job.use_count > kMostUses) batch.flush();
    job.first_use = use_count;
    for (int u = 0; u < job.use_count; ++u) {
      jobs.uses[use_count++] = use_job(updates[i], updates[i].uses[u], job, lanes);
    }
    batch.add(job, blocks);
  }
  batch.flush();
}

// Calls body(null pointer of the device's type, updates, count) for each stretch of updates of one dtype.
template <class Update, class Body>
void for_each_dtype(const Update* updates, int64_t count, const Body& body) {
  for (int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && updates[end].dtype == updates[begin].dtype;) ++end;
    dispatch_device_dtype(updates[begin].dtype,
                          [&](auto* type) { body(type, updates + begin, end - begin); });
  }
}

}  // namespace
}  // namespace kshot::cuda
