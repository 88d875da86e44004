// What the steps of all optimisers on many weight dictionaries have in common. From dense gradients or from
// the uses that make compact ones,
//
//     g = sign * (sum_u code_u[k] * gate_u[row] * grad_u[row, :] + grad[k])
//     w, states = rule(w, g, states)
//
// where the sign is -1 to maximize, else 1, and a job knows the optimiser's rule and what it keeps for each
// element.
//
// A block owns a tile of elements of 4 copies, a thread 16 bytes of each copy (or as many elements one by
// one, 128 apart). It first adds up the copies' gradients from the uses, each of which it reads once for the
// 4 copies, then updates them. Lanes hold the codes and pass them round by shuffles. Bound by bytes: weight
// and states are read and written once, each use's gradient is read once for 4 copies.
#pragma once

#include "cuda/dictionary_update.h"
#include "cuda/job_list.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace kshot::cuda {
namespace {

struct UseJob {
  const void *code, *gate, *grad;
  int size;        // elements of a copy whose rows are active
  int run_length;  // active ones, or the same as the job's
  bool vectors;
};

// A dictionary. Optimisers derive their jobs from it, with kStates, states[kStates] (like the weight, or
// null) and apply(w, g, states), which changes the numbers of one element.
struct UpdateJob {
  void* weight;
  const void* grad;
  int64_t shot_stride;  // elements of a copy
  double sign;          // fits every dtype
  int shots;
  int runs, run_length;  // of a row; one run where every use is active in whole rows
  int row_length;
  int first_use, use_count;
  bool vectors;
};

constexpr int kUpdateThreads = 128, kUpdateCopies = 4;

// The kernel's parameters: jobs, and the uses of all of them.
template <class Job>
struct UpdateJobs {
  JobList<Job, kMostUses * sizeof(UseJob) + 16> list;
  UseJob uses[kMostUses];
};

// Elements of one thread: consecutive ones, or ones that lie kUpdateThreads apart.
template <class T, bool vectors>
struct DictionaryElements {
  static constexpr int kLanes = kVectorLanes<T>;
  static constexpr int kTile = kUpdateThreads * kLanes;
  using Raw = Words<kVectorBytes>;

  int begin, size;

  __device__ __forceinline__ DictionaryElements(int tile, int size) : size(size) {
    begin = tile * kTile + static_cast<int>(threadIdx.x) * (vectors ? kLanes : 1);
  }
  __device__ __forceinline__ int at(int i) const { return vectors ? begin + i : begin + i * kUpdateThreads; }

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
  __device__ __forceinline__ void load_use(Sum<T> (&to)[kLanes], Sum<T> (&gates)[kLanes],
                                           const UpdateJob& job, const UseJob& use) const {
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
    __device__ __forceinline__ Place(const UpdateJob& job, const UseJob& use, int at) {
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

template <class T, bool vectors, class Job>
__device__ __forceinline__ void update_tile(const Job& job, const UseJob* uses, int tile, int first) {
  using C = Sum<T>;
  constexpr int lanes = kVectorLanes<T>;
  const DictionaryElements<T, vectors> elements(tile, static_cast<int>(job.shot_stride));
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, count = min(kUpdateCopies, job.shots - first);
  C totals[kUpdateCopies][lanes] = {};
  for (int u = 0; u < job.use_count; ++u) {
    const UseJob& use = uses[job.first_use + u];
    const C own_code = lane < count ? static_cast<const C*>(use.code)[first + lane] : C(0);
    C grad[lanes], gates[lanes];
    elements.load_use(grad, gates, job, use);
#pragma unroll
    for (int c = 0; c < kUpdateCopies; ++c) {
      const C code = __shfl_sync(kAllLanes, own_code, c);
#pragma unroll
      for (int i = 0; i < lanes; ++i) totals[c][i] += code * gates[i] * grad[i];
    }
  }

  const C sign = static_cast<C>(job.sign);
  const int64_t offset = first * job.shot_stride;
  T* weight = static_cast<T*>(job.weight) + offset;
  const T* dense = static_cast<const T*>(job.grad) + offset;
  // All loads before the first store: the compiler cannot know that they do not overlap.
  Words<kVectorBytes> weights[kUpdateCopies], states[kUpdateCopies][Job::kStates];
#pragma unroll
  for (int c = 0; c < kUpdateCopies; ++c) {
    if (c < count) {
      weights[c] = elements.load(weight + c * job.shot_stride);
#pragma unroll
      for (int s = 0; s < Job::kStates; ++s) {
        const T* state = static_cast<const T*>(job.states[s]) + offset;
        if (job.states[s]) states[c][s] = elements.load(state + c * job.shot_stride);
      }
      if (job.grad) {
        C g[lanes];
        unpack<T, lanes>(g, elements.load(dense + c * job.shot_stride));
#pragma unroll
        for (int i = 0; i < lanes; ++i) totals[c][i] += g[i];
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kUpdateCopies; ++c) {
    if (c < count) {
      C w[lanes], kept[Job::kStates][lanes];
      unpack<T, lanes>(w, weights[c]);
#pragma unroll
      for (int s = 0; s < Job::kStates; ++s) {
        if (job.states[s]) unpack<T, lanes>(kept[s], states[c][s]);
      }
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        C values[Job::kStates];
#pragma unroll
        for (int s = 0; s < Job::kStates; ++s) values[s] = kept[s][i];
        job.apply(w[i], sign * totals[c][i], values);
#pragma unroll
        for (int s = 0; s < Job::kStates; ++s) kept[s][i] = values[s];
      }
      elements.store(weight + c * job.shot_stride, w);
#pragma unroll
      for (int s = 0; s < Job::kStates; ++s) {
        T* state = static_cast<T*>(job.states[s]) + offset;
        if (job.states[s]) elements.store(state + c * job.shot_stride, kept[s]);
      }
    }
  }
}

// The work of one block.
template <class T, class Job>
__device__ __forceinline__ void update_block(const UpdateJobs<Job>& jobs) {
  const int index = jobs.list.job_of(static_cast<int>(blockIdx.x));
  const Job& job = jobs.list.jobs[index];
  const int chunks = (job.shots + kUpdateCopies - 1) / kUpdateCopies;
  const int tile = (static_cast<int>(blockIdx.x) - jobs.list.first_block[index]) / chunks;
  const int chunk = static_cast<int>(blockIdx.x) - jobs.list.first_block[index] - tile * chunks;
  if (job.vectors) {
    update_tile<T, true>(job, jobs.uses, tile, chunk * kUpdateCopies);
  } else {
    update_tile<T, false>(job, jobs.uses, tile, chunk * kUpdateCopies);
  }
}

}  // namespace
}  // namespace kshot::cuda
