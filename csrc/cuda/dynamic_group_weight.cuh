// Effective weight of a dictionary under a dynamic grouping, mixed and masked in one pass:
//
//     effective[n, e] = relation[e] * sum_k code[n, k] * weight[k, e]
//
// A block owns one tile of elements e (see mix_tile.cuh), for all copies and samples; with a code per sample
// it takes the copies from the caches again for each. A thread whose elements are all left out reads nothing
// and stores zeros. Floor of bytes for a weight of B bytes, of which a share q is not left out: K q B read
// and B written; what is read comes in whole sectors of 32 bytes, so short blocks bring some of their
// neighbours along. Bound by bytes.
#pragma once

#include "cuda/group_tile.cuh"

namespace kshot::cuda {
namespace {

struct GroupWeightJob {
  GroupShape shape;
  const void *weight, *code, *gates;
  void* output;
};

constexpr int kGroupThreads = 256;
constexpr int kGroupCopiesAtOnce = 8;  // loads in flight per thread

template <class T, bool vectors>
__device__ __forceinline__ void group_weight_tile(const GroupWeightJob& job, int tile) {
  using C = Sum<T>;
  using Elements = TileElements<T, kGroupThreads, vectors>;
  constexpr int lanes = kVectorLanes<T>, copies_at_once = vectors ? kGroupCopiesAtOnce : 16 / lanes;
  const MixShape& mix = job.shape.mix;
  const Elements elements(mix, tile);
  const Gates<C> gates(job.gates, job.shape.gates);
  const GroupElements<T, Elements> own(job.shape, gates, tile);
  for (int n = 0; n < mix.samples; ++n) {
    const C* code = static_cast<const C*>(job.code) + static_cast<int64_t>(n) * mix.shots;
    C sum[lanes] = {};
    for (int k = 0; own.connected && k < mix.shots; k += copies_at_once) {
      Words<kVectorBytes> copies[copies_at_once];
#pragma unroll
      for (int c = 0; c < copies_at_once; ++c) {
        if (k + c < mix.shots) {
          copies[c] = elements.load_copy(static_cast<const T*>(job.weight) + (k + c) * mix.shot_stride);
        }
      }
#pragma unroll
      for (int c = 0; c < copies_at_once; ++c) {
        if (k + c < mix.shots) add_copy<T>(sum, copies[c], code[k + c]);
      }
    }
    own.mask(sum);
    T* output = static_cast<T*>(job.output) + static_cast<int64_t>(n) * mix.sample_size;
    elements.store_packed(output, pack<T, lanes>(sum));
  }
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, sizeof(T) == 2 ? 3 : 4)  // half types have twice the sums
    group_weight_kernel(const GroupWeightJob job) {
  const int tile = static_cast<int>(blockIdx.x);
  if (job.shape.mix.vectors) {
    group_weight_tile<T, true>(job, tile);
  } else {
    group_weight_tile<T, false>(job, tile);
  }
}

}  // namespace
}  // namespace kshot::cuda
