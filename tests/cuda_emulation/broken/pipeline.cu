// Asynchronous copies that are not waited for, or not as they must be.
#include "cases.h"
#include "cuda/platform.cuh"

namespace broken {
namespace {

constexpr int kVector = 4;
constexpr int kBytes = kThreads * kVector * sizeof(float);

enum Mistake { kNone, kNoWait, kNoBarrier, kMisaligned };

// A thread copies four values; a block turns its values around.
template <Mistake mistake>
__global__ void copy_kernel(Case c) {
  KSHOT_DYNAMIC_SHARED(float, tile);
  const int64_t first = int64_t{blockIdx.x} * kThreads * kVector;
  const int lane = static_cast<int>(threadIdx.x);
  const float* from = c.values + first + lane * kVector;
  __pipeline_memcpy_async(tile + lane * kVector, mistake == kMisaligned ? from - 1 : from, 16);
  __pipeline_commit();
  if (mistake != kNoWait) __pipeline_wait_prior(0);
  if (mistake != kNoBarrier) __syncthreads();
  for (int i = 0; i < kVector; ++i) {
    c.results[first + lane * kVector + i] = tile[kThreads * kVector - 1 - lane * kVector - i];
  }
}

template <Mistake mistake>
void launch(const Case& c) {
  const auto blocks = static_cast<unsigned>(c.size / (kThreads * kVector));
  KSHOT_LAUNCH((c.broken ? copy_kernel<mistake> : copy_kernel<kNone>), blocks, kThreads, kBytes, nullptr, c);
}

}  // namespace

void missing_pipeline_wait(const Case& c) {
  launch<kNoWait>(c);
}
void missing_barrier_after_wait(const Case& c) {
  launch<kNoBarrier>(c);
}
void misaligned_async_copy(const Case& c) {
  launch<kMisaligned>(c);
}

}  // namespace broken
