// Effective weight of many dictionaries:
//
//     effective[n, e] = gate[n, row of e] * sum_k code[n, k] * weight[k, e]
//
// A block owns one tile of elements e (see mix_tile.cuh) of one dictionary, for all its copies. With a code
// shared by the batch, a thread adds the copies up as they stream by. With a code per sample, each thread
// first puts its elements of all copies into shared memory, whence it takes them for four samples at a time;
// a block takes a group of samples, so many that reading the dictionary once a group is little beside writing
// their weights. Lanes hold the codes and pass them round by shuffles. Bound by bytes: the dictionary read
// once, the effective weights written once.
#pragma once

#include "cuda/job_list.cuh"
#include "cuda/mix_tile.cuh"
#include "cuda/reduce.cuh"

namespace kshot::cuda {
namespace {

struct MixJob {
  MixShape shape;
  const void *weight, *code, *gate;
  void* output;
  int sample_group;  // samples of one block
};

constexpr int kMixThreads = 256, kMixPerSampleThreads = 128;
constexpr int kCopiesAtOnce = 8;    // loads in flight per thread
constexpr int kStashedCopies = 16;  // of a code per sample: 32 KiB a block
constexpr int kSamplesAtOnce = 4;
static_assert(kStashedCopies * kMixPerSampleThreads * kVectorBytes <= 32 << 10,
              "four blocks fit a multiprocessor");

// output = gate * sum
template <class T, class Elements>
__device__ __forceinline__ void store_gated(const MixJob& job, const Elements& elements, int sample,
                                            Sum<T> (&sum)[kVectorLanes<T>]) {
  constexpr int lanes = kVectorLanes<T>;
  if (job.gate) {
    Sum<T> gates[lanes] = {};
    const Sum<T>* gate =
        static_cast<const Sum<T>*>(job.gate) + static_cast<int64_t>(sample) * job.shape.gate_stride;
    elements.load_gates(gates, gate, job.shape.row_length);
#pragma unroll
    for (int i = 0; i < lanes; ++i) sum[i] *= gates[i];
  }
  T* output = static_cast<T*>(job.output) + static_cast<int64_t>(sample) * job.shape.sample_size;
  elements.store_packed(output, pack<T, lanes>(sum));
}

template <class T, bool vectors>
__device__ __forceinline__ void mix_tile(const MixJob& job, int tile) {
  const TileElements<T, kMixThreads, vectors> elements(job.shape, tile);
  // Elements loaded one by one are many loads in flight per copy as it is.
  constexpr int copies_at_once = vectors ? kCopiesAtOnce : 16 / kVectorLanes<T>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const Sum<T>* code = static_cast<const Sum<T>*>(job.code);
  const T* weight = static_cast<const T*>(job.weight);
  Sum<T> sum[kVectorLanes<T>] = {};
  for (int first = 0; first < job.shape.shots; first += kWarpSize) {
    const int count = min(kWarpSize, job.shape.shots - first);
    const Sum<T> own_code = lane < count ? code[first + lane] : Sum<T>(0);
    for (int k = 0; k < count; k += copies_at_once) {
      Words<kVectorBytes> copies[copies_at_once];
#pragma unroll
      for (int c = 0; c < copies_at_once; ++c) {
        if (k + c < count) copies[c] = elements.load_copy(weight + (first + k + c) * job.shape.shot_stride);
      }
#pragma unroll
      for (int c = 0; c < copies_at_once; ++c) {
        if (k + c < count) add_copy<T>(sum, copies[c], __shfl_sync(kAllLanes, own_code, k + c));
      }
    }
  }
  store_gated<T>(job, elements, 0, sum);
}

template <class T>
__global__ void __launch_bounds__(kMixThreads, 4) mix_kernel(const JobList<MixJob> list) {
  const int index = list.job_of(static_cast<int>(blockIdx.x));
  const MixJob& job = list.jobs[index];
  const int tile = static_cast<int>(blockIdx.x) - list.first_block[index];
  if (job.shape.vectors) {
    mix_tile<T, true>(job, tile);
  } else {
    mix_tile<T, false>(job, tile);
  }
}

template <class T, bool vectors>
__device__ __forceinline__ void mix_tile_per_sample(const MixJob& job, int tile, int group,
                                                    Words<kVectorBytes>* stash) {
  constexpr int lanes = kVectorLanes<T>;
  const TileElements<T, kMixPerSampleThreads, vectors> elements(job.shape, tile);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, shots = job.shape.shots;
  const T* weight = static_cast<const T*>(job.weight);
  const bool stashed = shots <= kStashedCopies;
  // Each thread reads back what it wrote itself: no barrier.
  if (stashed) {
#pragma unroll 4
    for (int k = 0; k < shots; ++k) {
      store_words(stash + k * kMixPerSampleThreads + static_cast<int>(threadIdx.x),
                  elements.load_copy(weight + k * job.shape.shot_stride));
    }
  }
  const int begin = group * job.sample_group, end = min(begin + job.sample_group, job.shape.samples);
  for (int first = begin; first < end; first += kSamplesAtOnce) {
    Sum<T> sums[kSamplesAtOnce][lanes] = {};
    for (int k = 0; k < shots; k += kCopiesAtOnce) {
      // Lane s * 8 + c holds the code of sample s and copy c.
      static_assert(kSamplesAtOnce * kCopiesAtOnce == kWarpSize, "a lane for every code");
      const int sample = first + lane / kCopiesAtOnce, copy = k + lane % kCopiesAtOnce;
      const Sum<T> own_code =
          sample < end && copy < shots
              ? static_cast<const Sum<T>*>(job.code)[static_cast<int64_t>(sample) * shots + copy]
              : Sum<T>(0);
#pragma unroll
      for (int c = 0; c < kCopiesAtOnce; ++c) {
        if (k + c < shots) {
          const Words<kVectorBytes> raw =
              stashed ? load_words<kVectorBytes>(stash + (k + c) * kMixPerSampleThreads +
                                                 static_cast<int>(threadIdx.x))
                      : elements.load_copy(weight + (k + c) * job.shape.shot_stride);
#pragma unroll
          for (int s = 0; s < kSamplesAtOnce; ++s) {
            add_copy<T>(sums[s], raw, __shfl_sync(kAllLanes, own_code, s * kCopiesAtOnce + c));
          }
        }
      }
    }
#pragma unroll
    for (int s = 0; s < kSamplesAtOnce; ++s) {
      if (first + s < end) store_gated<T>(job, elements, first + s, sums[s]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kMixPerSampleThreads, 4) mix_per_sample_kernel(const JobList<MixJob> list) {
  alignas(kVectorBytes) __shared__ Words<kVectorBytes> stash[kStashedCopies * kMixPerSampleThreads];
  const int index = list.job_of(static_cast<int>(blockIdx.x));
  const MixJob& job = list.jobs[index];
  const int groups = (job.shape.samples + job.sample_group - 1) / job.sample_group;
  const int tile = (static_cast<int>(blockIdx.x) - list.first_block[index]) / groups;
  const int group = static_cast<int>(blockIdx.x) - list.first_block[index] - tile * groups;
  if (job.shape.vectors) {
    mix_tile_per_sample<T, true>(job, tile, group, stash);
  } else {
    mix_tile_per_sample<T, false>(job, tile, group, stash);
  }
}

}  // namespace
}  // namespace kshot::cuda
