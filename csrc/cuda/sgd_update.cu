// Launches of the kernel in sgd_update.cuh.
#include "cuda/sgd_update.cuh"

#include <algorithm>

namespace kshot::cuda {
namespace {

bool is_multiple(int64_t value, int64_t of) {
  return value % of == 0;
}

// The layout of the dictionary, as simple as its uses allow.
SgdJob sgd_job(const SgdUpdate& update, int64_t lanes) {
  const MixGeometry& geometry = update.geometry;
  SgdJob job{};
  job.weight = update.weight;
  job.momentum_buffer = update.momentum_buffer;
  job.grad = update.grad;
  job.shot_stride = geometry.shot_stride;
  job.sign = update.maximize ? -1 : 1;
  job.lr = update.lr;
  job.momentum = update.momentum;
  job.undampened = 1 - update.dampening;
  job.weight_decay = update.weight_decay;
  job.shots = static_cast<int>(geometry.shots);
  job.row_length = static_cast<int>(geometry.runs * geometry.run_length);
  bool whole_rows = true;
  for (int64_t u = 0; u < update.use_count; ++u) {
    whole_rows = whole_rows && update.uses[u].run_length == geometry.run_length;
  }
  job.runs = whole_rows ? 1 : static_cast<int>(geometry.runs);
  job.run_length = whole_rows ? job.row_length : static_cast<int>(geometry.run_length);
  job.use_count = static_cast<int>(update.use_count);
  job.nesterov = update.nesterov;
  job.vectors = is_multiple(geometry.shot_stride, lanes) && is_vector_aligned(update.weight) &&
                is_vector_aligned(update.momentum_buffer) && is_vector_aligned(update.grad);
  return job;
}

SgdUseJob use_job(const SgdUpdate& update, const SgdUse& use, const SgdJob& job, int64_t lanes) {
  SgdUseJob result{};
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

template <class T>
void update_all(const SgdUpdate* updates, int64_t count, cudaStream_t stream) {
  constexpr int64_t lanes = kVectorLanes<T>;
  SgdJobList jobs;
  int use_count = 0;
  const auto launch = [&](const auto& list) {
    jobs.list = list;
    KSHOT_LAUNCH(sgd_kernel<T>, dim3(list.blocks), dim3(kSgdThreads), 0, stream, jobs);
    use_count = 0;
  };
  JobBatch<decltype(jobs.list), decltype(launch)> batch(launch);
  for (int64_t i = 0; i < count; ++i) {
    SgdJob job = sgd_job(updates[i], lanes);
    const int64_t tile = kSgdThreads * lanes;
    const int64_t tiles = (updates[i].geometry.shot_stride + tile - 1) / tile;
    const int64_t blocks = tiles * ((job.shots + kSgdCopies - 1) / kSgdCopies);
    if (batch.full_for(blocks) || use_count + job.use_count > kMaxSgdUses) batch.flush();
    job.first_use = use_count;
    for (int u = 0; u < job.use_count; ++u) {
      jobs.uses[use_count++] = use_job(updates[i], updates[i].uses[u], job, lanes);
    }
    batch.add(job, blocks);
  }
  batch.flush();
}

}  // namespace

void sgd_update(const SgdUpdate* updates, int64_t count, void* stream) {
  for (int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && updates[end].dtype == updates[begin].dtype;) ++end;
    dispatch_device_dtype(updates[begin].dtype, [&](auto* type) {
      update_all<std::remove_pointer_t<decltype(type)>>(updates + begin, end - begin,
                                                        static_cast<cudaStream_t>(stream));
    });
  }
}

}  // namespace kshot::cuda
