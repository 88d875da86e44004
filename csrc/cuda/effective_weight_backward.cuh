// Derivatives of the effective weight of many dictionaries, with g = dL/d(effective):
//
//     dL/dweight[k, e]  = sum_n code[n, k] * gate[n, row of e] * g[n, e]
//     dL/dcode[n, k]    = sum_e gate[n, row of e] * g[n, e] * weight[k, e]
//     dL/dgate[n, row]  = sum_{e in row} g[n, e] * sum_k code[n, k] * weight[k, e]
//
// A block owns one tile of elements (see mix_tile.cuh) and up to 8 copies per group of its threads; a group
// holds all of the tile, of its own copies, in registers while the samples' gradients pass by. With more than
// 8 copies and several samples there are two groups: each brings the gradient of every other sample to shared
// memory, for both. So dictionary and gradient are read once (the gradient once for every 16 copies), and
// dL/dweight is written once. The sums over elements take two stages: a block's sums over its tile go to
// scratch memory, one row per tile, and small kernels add them up in order. Rows of a gate need not end with
// tiles: each row has a place for every tile that it may reach into. Bound by bytes.
#pragma once

#include "cuda/job_list.cuh"
#include "cuda/mix_tile.cuh"
#include "cuda/reduce.cuh"

namespace kshot::cuda {
namespace {

struct MixBackwardJob {
  MixShape shape;
  const void *weight, *code, *gate, *grad;
  void* grad_weight;  // or null
  void* code_sums;    // [tiles, N, K], or null
  void* gate_sums;    // [groups of all blocks of a tile, N, rows, gate_parts], or null
  int gate_parts;     // tiles that a row may reach into
};

struct GateSumJob {
  const void* from;  // gate_sums of a MixBackwardJob
  void* to;          // [N, rows], or [rows] where the gate is shared
  int groups, samples, rows, parts, row_length, tile;
  bool shared;
};

constexpr int kMixBackwardThreads = 128;
constexpr int kCopiesHeld = 8;
constexpr int kGateSumThreads = 128;

// How the threads of a block share a tile.
template <class T, int groups>
struct MixBackwardTiling {
  static constexpr int kThreads = kMixBackwardThreads / groups, kWarps = kThreads / kWarpSize;  // of a group
  static constexpr int kTile = kThreads * kVectorLanes<T>;
  static constexpr int kCopies = groups * kCopiesHeld;
};

// Host code's view of it.
inline int64_t mix_backward_groups(int64_t shots, int64_t samples) {
  return samples > 1 && shots > kCopiesHeld ? 2 : 1;
}
inline int64_t mix_backward_tile_size(int64_t groups, int64_t element_bytes) {
  return kMixBackwardThreads / groups * kVectorBytes / element_bytes;
}

template <class T, int groups>
struct MixBackwardScratch {
  using Tiling = MixBackwardTiling<T, groups>;
  alignas(kVectorBytes) Sum<T> products[groups][Tiling::kTile];
  // Of the samples of a round, one per group; the next round's come to the other half.
  alignas(kVectorBytes) Words<kVectorBytes> grads[2][groups][groups > 1 ? Tiling::kThreads : 1];
  alignas(kVectorBytes) Sum<T> codes[2][groups][Tiling::kCopies];
  Sum<T> dots[2][groups][Tiling::kWarps][kCopiesHeld];
};

// Sums the products of a tile over the rows that it meets, a warp of the group a row.
template <class T, int groups>
__device__ __forceinline__ void sum_rows(const MixBackwardJob& job, const Sum<T>* products, int tile,
                                         int64_t group_and_sample) {
  using Tiling = MixBackwardTiling<T, groups>;
  const int length = job.shape.row_length, begin = tile * Tiling::kTile,
            end = min(begin + Tiling::kTile, job.shape.sample_size);
  const int warp = static_cast<int>(threadIdx.x) % Tiling::kThreads / kWarpSize,
            lane = static_cast<int>(threadIdx.x) % kWarpSize;
  Sum<T>* sums = static_cast<Sum<T>*>(job.gate_sums) + group_and_sample * job.shape.rows * job.gate_parts;
  for (int row = begin / length + warp; row * length < end; row += Tiling::kWarps) {
    const int row_begin = row * length;
    const int from = max(row_begin, begin), to = min(row_begin + length, end);
    Sum<T> sum = 0;
    for (int i = from + lane; i < to; i += kWarpSize) sum += products[i - begin];
    sum = warp_sum(sum);
    if (lane == 0) sums[static_cast<int64_t>(row) * job.gate_parts + tile - row_begin / Tiling::kTile] = sum;
  }
}

template <class T, bool per_sample, int groups, bool vectors>
__device__ __forceinline__ void mix_backward_tile(const MixBackwardJob& job, int tile, int chunk,
                                                  MixBackwardScratch<T, groups>& scratch) {
  using C = Sum<T>;
  constexpr int lanes = kVectorLanes<T>;
  using Tiling = MixBackwardTiling<T, groups>;
  using Elements = TileElements<T, Tiling::kThreads, vectors>;
  const Elements elements(job.shape, tile);
  const int thread = static_cast<int>(threadIdx.x), group = thread / Tiling::kThreads;
  const int warp = thread % Tiling::kThreads / kWarpSize, lane = thread % kWarpSize;
  const int block_first = chunk * Tiling::kCopies, first = block_first + group * kCopiesHeld;
  const int count = min(kCopiesHeld, job.shape.shots - first);  // none, perhaps, of the last block
  const int samples = per_sample ? job.shape.samples : 1;
  const bool need_dots = job.code_sums || job.gate_sums;
  const T* weight = static_cast<const T*>(job.weight) + first * job.shape.shot_stride;
  T* grad_weight = static_cast<T*>(job.grad_weight) + first * job.shape.shot_stride;
  const T* grad = static_cast<const T*>(job.grad);

  // What this thread brings for the round of samples that begins with `sample`.
  Words<kVectorBytes> next_grad{};
  C next_code = 0;
  const auto load_round = [&](int sample) {
    if (sample + group < samples) {
      next_grad = elements.load_packed(grad + static_cast<int64_t>(sample + group) * job.shape.sample_size);
    }
    const int own_sample = sample + thread / Tiling::kCopies,
              own_copy = block_first + thread % Tiling::kCopies;
    if (thread < groups * Tiling::kCopies && own_sample < samples && own_copy < job.shape.shots) {
      next_code =
          static_cast<const C*>(job.code)[static_cast<int64_t>(own_sample) * job.shape.shots + own_copy];
    }
  };
  const auto share_round = [&](int half) {
    if constexpr (groups > 1) {
      store_words(scratch.grads[half][group] + thread % Tiling::kThreads, next_grad);
    }
    if (thread < groups * Tiling::kCopies) {
      scratch.codes[half][thread / Tiling::kCopies][thread % Tiling::kCopies] = next_code;
    }
  };

  load_round(0);
  Words<kVectorBytes> copies[kCopiesHeld] = {};
#pragma unroll
  for (int c = 0; c < kCopiesHeld; ++c) {
    if (need_dots && c < count) copies[c] = elements.load_copy(weight + c * job.shape.shot_stride);
  }
  share_round(0);
  __syncthreads();
  C grad_sums[per_sample ? kCopiesHeld : 1][lanes] = {};
  Words<kVectorBytes> raw{};
  for (int n = 0; n < samples; ++n) {
    const int turn = n % groups, half = n / groups % 2;
    if constexpr (groups == 1) raw = next_grad;
    if (turn == 0) load_round(n + groups);
    if constexpr (groups > 1) {
      raw = load_words<kVectorBytes>(scratch.grads[half][turn] + thread % Tiling::kThreads);
    }
    C g[lanes], gates[lanes] = {}, mixed[lanes] = {}, dots[kCopiesHeld];
    unpack<T, lanes>(g, raw);
    if (job.gate) {
      elements.load_gates(gates,
                          static_cast<const C*>(job.gate) + static_cast<int64_t>(n) * job.shape.gate_stride,
                          job.shape.row_length);
    } else {
#pragma unroll
      for (int i = 0; i < lanes; ++i) gates[i] = C(1);
    }
#pragma unroll
    for (int c = 0; c < kCopiesHeld; ++c) {
      const C code = scratch.codes[half][turn][group * kCopiesHeld + c];
      C values[lanes];
      unpack<T, lanes>(values, copies[c]);
      dots[c] = C(0);
#pragma unroll
      for (int i = 0; i < lanes; ++i) {
        dots[c] += gates[i] * g[i] * values[i];
        mixed[i] += code * values[i];
        values[i] = code * (gates[i] * g[i]);
        if constexpr (per_sample) grad_sums[c][i] += values[i];
      }
      if constexpr (!per_sample) {
        if (job.grad_weight && c < count) {
          elements.store_copy(grad_weight + c * job.shape.shot_stride, pack<T, lanes>(values));
        }
      }
    }
    if (job.code_sums) {
      const C dot = warp_sums<kCopiesHeld>(dots);
      constexpr int lanes_per_copy = kWarpSize / kCopiesHeld;
      if (lane % lanes_per_copy == 0) scratch.dots[n % 2][group][warp][lane / lanes_per_copy] = dot;
    }
    if (job.gate_sums) {
#pragma unroll
      for (int i = 0; i < lanes; ++i) mixed[i] *= g[i];
      if constexpr (vectors) {
        constexpr int piece = kVectorLanes<C>;
#pragma unroll
        for (int i = 0; i < lanes; i += piece) {
          C values[piece];
#pragma unroll
          for (int j = 0; j < piece; ++j) values[j] = mixed[i + j];
          store_vector<C, piece>(scratch.products[group] + Elements::place(i), values);
        }
      } else {
#pragma unroll
        for (int i = 0; i < lanes; ++i) scratch.products[group][Elements::place(i)] = mixed[i];
      }
    }
    if constexpr (per_sample) {
      if (turn + 1 == groups) share_round(1 - half);
    }
    if (per_sample || need_dots) __syncthreads();
    // The next sample's dots go to the other half of the scratch memory, so one barrier does.
    if (job.code_sums && thread < Tiling::kCopies && block_first + thread < job.shape.shots) {
      C sum = 0;
#pragma unroll
      for (int w = 0; w < Tiling::kWarps; ++w) {
        sum += scratch.dots[n % 2][thread / kCopiesHeld][w][thread % kCopiesHeld];
      }
      static_cast<C*>(job.code_sums)[(static_cast<int64_t>(tile) * samples + n) * job.shape.shots +
                                     block_first + thread] = sum;
    }
    if (job.gate_sums) {
      sum_rows<T, groups>(job, scratch.products[group], tile,
                          static_cast<int64_t>(chunk * groups + group) * samples + n);
      __syncthreads();
    }
  }
  if constexpr (per_sample) {
#pragma unroll
    for (int c = 0; c < kCopiesHeld; ++c) {
      if (job.grad_weight && c < count) {
        elements.store_copy(grad_weight + c * job.shape.shot_stride, pack<T, lanes>(grad_sums[c]));
      }
    }
  }
}

template <class T, bool per_sample, int groups>
__global__ void __launch_bounds__(kMixBackwardThreads, per_sample ? (sizeof(T) == 2 ? 2 : 3) : 4)
    mix_backward_kernel(const JobList<MixBackwardJob> list) {
  __shared__ MixBackwardScratch<T, groups> scratch;
  constexpr int copies = MixBackwardTiling<T, groups>::kCopies;
  const int index = list.job_of(static_cast<int>(blockIdx.x));
  const MixBackwardJob& job = list.jobs[index];
  const int chunks = (job.shape.shots + copies - 1) / copies;
  const int tile = (static_cast<int>(blockIdx.x) - list.first_block[index]) / chunks;
  const int chunk = static_cast<int>(blockIdx.x) - list.first_block[index] - tile * chunks;
  if (job.shape.vectors) {
    mix_backward_tile<T, per_sample, groups, true>(job, tile, chunk, scratch);
  } else {
    mix_backward_tile<T, per_sample, groups, false>(job, tile, chunk, scratch);
  }
}

// A thread adds up one gate's sums.
template <class C>
__global__ void __launch_bounds__(kGateSumThreads) gate_sum_kernel(const JobList<GateSumJob> list) {
  const int index = list.job_of(static_cast<int>(blockIdx.x));
  const GateSumJob& job = list.jobs[index];
  const int64_t gate =
      static_cast<int64_t>(static_cast<int>(blockIdx.x) - list.first_block[index]) * kGateSumThreads +
      threadIdx.x;
  if (gate >= static_cast<int64_t>(job.shared ? 1 : job.samples) * job.rows) return;
  const int row = static_cast<int>(gate % job.rows), sample = static_cast<int>(gate / job.rows);
  const int parts = ((row + 1) * job.row_length - 1) / job.tile - row * job.row_length / job.tile + 1;
  C sum = 0;
  for (int n = job.shared ? 0 : sample; n < (job.shared ? job.samples : sample + 1); ++n) {
    for (int group = 0; group < job.groups; ++group) {
      const C* from = static_cast<const C*>(job.from) +
                      ((static_cast<int64_t>(group) * job.samples + n) * job.rows + row) * job.parts;
      for (int part = 0; part < parts; ++part) sum += from[part];
    }
  }
  static_cast<C*>(job.to)[gate] = sum;
}

}  // namespace
}  // namespace kshot::cuda
