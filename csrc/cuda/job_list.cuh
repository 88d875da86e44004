// Many small problems ("jobs") in one launch: their descriptions travel in the kernel's parameters, so that
// nothing is allocated or copied and a captured graph holds all it needs. Blocks of the grid are dealt to the
// jobs in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/platform.cuh"

namespace kshot::cuda {

constexpr size_t kParameterBytes = 4096;  // of a kernel on every architecture

// `Extra` bytes of the parameters are left for other arguments.
template <class Job, size_t extra = 0>
struct JobList {
  static constexpr int kCapacity =
      static_cast<int>((kParameterBytes - extra - 16) / (sizeof(Job) + sizeof(int)));

  int count = 0, blocks = 0;
  int first_block[kCapacity];
  Job jobs[kCapacity];

  // The job that a block works on.
  __device__ __forceinline__ int job_of(int block) const {
    int low = 0, high = count;  // the answer lies in [low, high)
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first_block[middle] <= block) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// Collects jobs on the host, and passes full lists to `launch`.
template <class List, class Launch>
class JobBatch {
 public:
  explicit JobBatch(const Launch& launch) : launch_(launch) {}

  template <class Job>
  void add(const Job& job, int64_t blocks) {
    if (blocks == 0) return;
    if (full_for(blocks)) flush();
    list_.first_block[list_.count] = list_.blocks;
    list_.jobs[list_.count] = job;
    ++list_.count;
    list_.blocks += static_cast<int>(blocks);
  }

  // Whether a job of so many blocks starts a new list.
  bool full_for(int64_t blocks) const {
    return list_.count == List::kCapacity || list_.blocks + blocks > INT32_MAX;
  }

  void flush() {
    if (list_.count > 0) launch_(list_);
    list_.count = list_.blocks = 0;
  }

 private:
  const Launch& launch_;
  List list_;
};

}  // namespace kshot::cuda
