// Derivatives of the effective weight under a dynamic grouping, with g = dL/d(effective), d[e] the bits in
// which the blocks of element e differ, and m[e] = sum_n g[n, e] * sum_k code[n, k] * weight[k, e]:
//
//     dL/dweight[k, e] = relation[e] * sum_n code[n, k] * g[n, e]
//     dL/dcode[n, k]   = sum_e relation[e] * g[n, e] * weight[k, e]
//     dL/dh_j          = sum over the e whose d[e] has bit j of m[e] * product of the other gates of d[e]
//
// A block owns one tile of elements, for all copies and samples. Sums over elements take two stages, as those
// of effective_weight_backward.cuh: a block's sums go to scratch memory, one row per tile, and
// column_sum_kernel adds the rows up in order. Nothing is read of elements of which neither a code nor a gate
// could be told anything; dL/dweight is written whole. Bound by bytes: see cpu/dynamic_group_weight.cpp.
#pragma once

#include "cuda/group_tile.cuh"
#include "cuda/reduce.cuh"

namespace kshot::cuda {
namespace {

struct GroupBackwardJob {
  GroupShape shape;
  const void *weight, *code, *gates, *grad;
  void* grad_weight;  // or null
  void* code_sums;    // [tiles, N, K], or null
  void* gate_sums;    // [tiles, gates], or null
};

constexpr int kGroupBackwardThreads = 128, kGroupBackwardWarps = kGroupBackwardThreads / kWarpSize;
constexpr int kDotsAtOnce = 8;   // copies of which a warp sums products together
constexpr int kGradsAtOnce = 4;  // copies whose gradients a thread holds

template <class C>
struct GroupBackwardScratch {
  C dots[kGroupBackwardWarps][kDotsAtOnce];
  C gates[kGroupBackwardWarps][kMostGates];
};

// Thread i < count writes the sum over warps of sums[warp][i].
template <class C, int columns>
__device__ __forceinline__ void add_warps(C* to, const C (&sums)[kGroupBackwardWarps][columns], int count) {
  const int column = static_cast<int>(threadIdx.x);
  if (column >= count) return;
  C sum = 0;
#pragma unroll
  for (int w = 0; w < kGroupBackwardWarps; ++w) sum += sums[w][column];
  to[column] = sum;
}

template <class T, bool vectors>
struct GroupBackwardTile {
  using C = Sum<T>;
  static constexpr int kLanes = kVectorLanes<T>;
  using Elements = TileElements<T, kGroupBackwardThreads, vectors>;

  const GroupBackwardJob& job;
  int tile;
  GroupBackwardScratch<C>& scratch;
  const MixShape& mix = job.shape.mix;
  Elements elements{mix, tile};
  Gates<C> gates{job.gates, job.shape.gates};
  GroupElements<T, Elements> own{job.shape, gates, tile};
  int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;

  __device__ __forceinline__ const C* code(int n) const {
    return static_cast<const C*>(job.code) + static_cast<int64_t>(n) * mix.shots;
  }
  __device__ __forceinline__ void load_grad(C (&to)[kLanes], int n) const {
    const T* grad = static_cast<const T*>(job.grad) + static_cast<int64_t>(n) * mix.sample_size;
    unpack<T, kLanes>(to, elements.load_packed(grad));
  }

  // A row of code_sums for the tile, and m of its elements.
  __device__ __forceinline__ void sum_products(C (&products)[kLanes]) {
    const bool reads = (job.code_sums && own.connected) || (job.gate_sums && own.may_tell);
    for (int n = 0; n < mix.samples; ++n) {
      C grad[kLanes] = {}, mixed[kLanes] = {};
      if (reads) load_grad(grad, n);
      for (int first = 0; first < mix.shots; first += kDotsAtOnce) {
        C dots[kDotsAtOnce] = {};
#pragma unroll
        for (int c = 0; c < kDotsAtOnce; ++c) {
          if (reads && first + c < mix.shots) {
            C values[kLanes];
            unpack<T, kLanes>(values, elements.load_copy(static_cast<const T*>(job.weight) +
                                                         (first + c) * mix.shot_stride));
            const C factor = code(n)[first + c];
#pragma unroll
            for (int i = 0; i < kLanes; ++i) {
              mixed[i] += factor * values[i];
              if (own.relation[i] != C(0)) dots[c] += own.relation[i] * grad[i] * values[i];
            }
          }
        }
        if (job.code_sums) {
          constexpr int lanes_per_copy = kWarpSize / kDotsAtOnce;
          const C dot = warp_sums<kDotsAtOnce>(dots);
          if (lane % lanes_per_copy == 0) scratch.dots[warp][lane / lanes_per_copy] = dot;
          __syncthreads();
          C* to = static_cast<C*>(job.code_sums) + (static_cast<int64_t>(tile) * mix.samples + n) * mix.shots;
          add_warps(to + first, scratch.dots, min(kDotsAtOnce, mix.shots - first));
          __syncthreads();  // the next copies' dots come to the same place
        }
      }
#pragma unroll
      for (int i = 0; i < kLanes; ++i) products[i] += grad[i] * mixed[i];
    }
  }

  // A row of gate_sums.
  __device__ __forceinline__ void sum_gates(const C (&products)[kLanes]) {
    for (int j = 0; j < job.shape.gates; ++j) {
      C sum = 0;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const C others = own.bits[i] & gates.bit(j) ? gates.relation(own.bits[i] & ~gates.bit(j)) : C(0);
        if (others != C(0)) sum += others * products[i];
      }
      sum = warp_sum(sum);
      if (lane == 0) scratch.gates[warp][j] = sum;
    }
    __syncthreads();
    C* to = static_cast<C*>(job.gate_sums) + static_cast<int64_t>(tile) * job.shape.gates;
    add_warps(to, scratch.gates, job.shape.gates);
  }

  __device__ __forceinline__ void store_grad_weight() {
    for (int first = 0; first < mix.shots; first += kGradsAtOnce) {
      C sums[kGradsAtOnce][kLanes] = {};
      for (int n = 0; own.connected && n < mix.samples; ++n) {
        C grad[kLanes];
        load_grad(grad, n);
#pragma unroll
        for (int c = 0; c < kGradsAtOnce; ++c) {
          const C factor = first + c < mix.shots ? code(n)[first + c] : C(0);
#pragma unroll
          for (int i = 0; i < kLanes; ++i) sums[c][i] += factor * grad[i];
        }
      }
#pragma unroll
      for (int c = 0; c < kGradsAtOnce; ++c) {
        if (first + c < mix.shots) {
          own.mask(sums[c]);
          elements.store_copy(static_cast<T*>(job.grad_weight) + (first + c) * mix.shot_stride,
                              pack<T, kLanes>(sums[c]));
        }
      }
    }
  }

  __device__ __forceinline__ void run() {
    if (job.grad_weight) store_grad_weight();
    if (!job.code_sums && !job.gate_sums) return;
    C products[kLanes] = {};
    sum_products(products);
    if (job.gate_sums) sum_gates(products);
  }
};

template <class T>
__global__ void __launch_bounds__(kGroupBackwardThreads, 4)
    group_weight_backward_kernel(const GroupBackwardJob job) {
  __shared__ GroupBackwardScratch<Sum<T>> scratch;
  const int tile = static_cast<int>(blockIdx.x);
  if (job.shape.mix.vectors) {
    GroupBackwardTile<T, true>{job, tile, scratch}.run();
  } else {
    GroupBackwardTile<T, false>{job, tile, scratch}.run();
  }
}

}  // namespace
}  // namespace kshot::cuda
