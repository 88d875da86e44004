// SGD with momentum on many weight dictionaries, from dense gradients or from the uses that make compact
// ones:
//
//     g = sign * (sum_u code_u[k] * gate_u[row] * grad_u[row, :] + grad[k]) + weight_decay * w
//     v = momentum * v + (1 - dampening) * g
//     w = w - lr * (nesterov ? g + momentum * v : v)
//
// where the sign is -1 to maximize, else 1.
//
// A block owns a tile of elements of 4 copies, a thread 16 bytes of each copy (or as many elements one by
// one, 128 apart). It first adds up the copies' gradients from the uses, each of which it reads once for the
// 4 copies, then updates them. Lanes hold the codes and pass them round by shuffles. Bound by bytes: weight
// and momentum are read and written once, each use's gradient is read once for 4 copies.
#pragma once

#include "cuda/job_list.cuh"
#include "cuda/reduce.cuh"
#include "cuda/sgd_update.h"
#include "cuda/vector.cuh"

namespace kshot::cuda {
namespace {

struct SgdUseJob {
  const void *code, *gate, *grad;
  int size;        // elements of a copy whose rows are active
  int run_length;  // active ones, or the same as the job's
  bool vectors;
};

struct SgdJob {
  void *weight, *momentum_buffer;
  const void* grad;
  int64_t shot_stride;  // elements of a copy
  // Fits every dtype: the factors were rounded to the sum type already.
  double sign, lr, momentum, undampened, weight_decay;
  int shots;
  int runs, run_length;  // of a row; one run where every use is active in whole rows
  int row_length;
  int first_use, use_count;
  bool nesterov, vectors;
};

constexpr int kSgdThreads = 128, kSgdCopies = 4;

// The kernel's parameters: jobs, and the uses of all of them.
struct SgdJobList {
  JobList<SgdJob, kMaxSgdUses * sizeof(SgdUseJob) + 16> list;
  SgdUseJob uses[kMaxSgdUses];
};
static_assert(sizeof(SgdJobList) <= kParameterBytes, "the parameters of a kernel are limited");

// Elements of one thread: consecutive ones, or ones that lie kSgdThreads apart.
template <class T, bool vectors>
struct SgdElements {
  static constexpr int kLanes = kVectorLanes<T>;
  static constexpr int kTile = kSgdThreads * kLanes;
  using Raw = Words<kVectorBytes>;

  int begin, size;

  __device__ __forceinline__ SgdElements(int tile, int size) : size(size) {
    begin = tile * kTile + static_cast<int>(threadIdx.x) * (vectors ? kLanes : 1);
  }
  __device__ __forceinline__ int at(int i) const { return vectors ? begin + i : begin + i * kSgdThreads; }

  __device__ __forceinline__ Raw load(const T* from) const {
    Raw raw{};
    if constexpr (vectors) {
      if (begin < size) raw = load_words<kVectorBytes>(from + begin);
    } else {
      Sum<T> values[kLanes];
#pragma unroll
      for (int i = 0; i < kLanes; ++i) values[i] = at(i) < size ? to_sum(from[at(i)]) : Sum<T>(0);
      raw = pack<T, kLanes>(values);
    }
    return raw;
  }

  __device__ __forceinline__ void store(T* to, const Sum<T> (&values)[kLanes]) const {
    if constexpr (vectors) {
      if (begin < size) store_global_vector<T>(to + begin, values);
    } else {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        if (at(i) < size) to[at(i)] = from_sum<T>(values[i]);
      }
    }
  }

  // gate * gradient of a use, zero where it has none.
  __device__ __forceinline__ void load_use(Sum<T> (&to)[kLanes], Sum<T> (&gates)[kLanes], const SgdJob& job,
                                           const SgdUseJob& use) const {
    const T* grad = static_cast<const T*>(use.grad);
    const Sum<T>* gate = static_cast<const Sum<T>*>(use.gate);
    if (vectors && use.vectors) {
      // Whole vectors are active or not, for the lengths of rows and runs are multiples of theirs, or rows
      // lie side by side in the use as they do in the dictionary.
      const Place place(job, use, begin);
      const bool active = begin < use.size && place.rest < use.run_length;
      Raw raw{};
      if (active) raw = load_words<kVectorBytes>(grad + place.packed);
      unpack<T, kLanes>(to, raw);
      load_gates_of_vector(gates, active ? gate : nullptr, job.row_length, use.size);
    } else {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const Place place(job, use, at(i));
        const bool active = at(i) < use.size && place.rest < use.run_length;
        to[i] = active ? to_sum(grad[place.packed]) : Sum<T>(0);
        gates[i] = active && gate ? gate[at(i) / job.row_length] : Sum<T>(1);
      }
    }
  }

 private:
  // Of an element in a use's packed gradient.
  struct Place {
    int packed, rest;
    __device__ __forceinline__ Place(const SgdJob& job, const SgdUseJob& use, int at) {
      if (use.run_length == job.run_length) {
        packed = at;
        rest = 0;
      } else {
        const int run = at / job.run_length;
        rest = at - run * job.run_length;
        packed = run * use.run_length + rest;
      }
    }
  };

  __device__ __forceinline__ void load_gates_of_vector(Sum<T> (&to)[kLanes], const Sum<T>* gate,
                                                       int row_length, int active_size) const {
    if (!gate) {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) to[i] = Sum<T>(1);
      return;
    }
    int row = begin / row_length, rest = begin - row * row_length;
    Sum<T> value = gate[row];
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      to[i] = value;
      if (++rest == row_length && i + 1 < kLanes && begin + i + 1 < active_size) {
        rest = 0;
        value = gate[++row];
      }
    }
  }
};

template <class T, bool vectors>
__device__ __forceinline__ void sgd_tile(const SgdJob& job, const SgdUseJob* uses, int tile, int first) {
  using C = Sum<T>;
  constexpr int lanes = kVectorLanes<T>;
  const SgdElements<T, vectors> elements(tile, static_cast<int>(job.shot_stride));
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, count = min(kSgdCopies, job.shots - first);
  C totals[kSgdCopies][lanes] = {};
  for (int u = 0; u < job.use_count; ++u) {
    const SgdUseJob& use = uses[job.first_use + u];
    const C own_code = lane < count ? static_cast<const C*>(use.code)[first + lane] : C(0);
    C grad[lanes], gates[lanes];
    elements.load_use(grad, gates, job, use);
#pragma unroll
    for (int c = 0; c < kSgdCopies; ++c) {
      const C code = __shfl_sync(kAllLanes, own_code, c);
#pragma unroll
      for (int i = 0; i < lanes; ++i) totals[c][i] += code * gates[i] * grad[i];
    }
  }

  const C sign = static_cast<C>(job.sign), lr = static_cast<C>(job.lr),
          momentum = static_cast<C>(job.momentum), undampened = static_cast<C>(job.undampened),
          weight_decay = static_cast<C>(job.weight_decay);
  const int64_t offset = first * job.shot_stride;
  T* weight = static_cast<T*>(job.weight) + offset;
  T* buffer = static_cast<T*>(job.momentum_buffer) + offset;
  const T* dense = static_cast<const T*>(job.grad) + offset;
  // All loads before the first store: the compiler cannot know that they do not overlap.
  Words<kVectorBytes> weights[kSgdCopies], buffers[kSgdCopies];
#pragma unroll
  for (int c = 0; c < kSgdCopies; ++c) {
    if (c < count) {
      weights[c] = elements.load(weight + c * job.shot_stride);
      if (job.momentum_buffer) buffers[c] = elements.load(buffer + c * job.shot_stride);
      if (job.grad) {
        C g[lanes];
        unpack<T, lanes>(g, elements.load(dense + c * job.shot_stride));
#pragma unroll
        for (int i = 0; i < lanes; ++i) totals[c][i] += g[i];
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kSgdCopies; ++c) {
    if (c < count) {
      C w[lanes], v[lanes];
      unpack<T, lanes>(w, weights[c]);
      if (job.momentum_buffer) unpack<T, lanes>(v, buffers[c]);
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        C g = sign * totals[c][i] + weight_decay * w[i];
        if (job.momentum_buffer) {
          v[i] = momentum * v[i] + undampened * g;
          g = job.nesterov ? g + momentum * v[i] : v[i];
        }
        w[i] -= lr * g;
      }
      elements.store(weight + c * job.shot_stride, w);
      if (job.momentum_buffer) elements.store(buffer + c * job.shot_stride, v);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kSgdThreads, sizeof(T) == 2 ? 3 : 5) sgd_kernel(const SgdJobList jobs) {
  const int index = jobs.list.job_of(static_cast<int>(blockIdx.x));
  const SgdJob& job = jobs.list.jobs[index];
  const int chunks = (job.shots + kSgdCopies - 1) / kSgdCopies;
  const int tile = (static_cast<int>(blockIdx.x) - jobs.list.first_block[index]) / chunks;
  const int chunk = static_cast<int>(blockIdx.x) - jobs.list.first_block[index] - tile * chunks;
  if (job.vectors) {
    sgd_tile<T, true>(job, jobs.uses, tile, chunk * kSgdCopies);
  } else {
    sgd_tile<T, false>(job, jobs.uses, tile, chunk * kSgdCopies);
  }
}

}  // namespace
}  // namespace kshot::cuda
