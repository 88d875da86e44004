// Alignment by dynamic time warping, and its gradient; common/dtw_align.h has the equation and the band.
//
// A block owns a pair and goes from one anti-diagonal to the next, a thread to a cell, a barrier in between.
// Three rows of costs are kept, and of every cell two bits that tell where its path comes from, by ballot; in
// shared memory where both fit, else in global scratch memory. One thread follows the bits back and writes
// the path to the end of its row; the block then moves it to the front.
//
// Points come through the caches, every one about as often as the band is wide. From memory come both
// sequences once, and 16 bytes of path are written for every step. Bound by the barriers: rows + columns - 1
// of them, one after the other. The gradient is bound by bytes: it reads the path and the points, and a
// point's sum has one owner, the thread that finds the first pair with it, which adds in the path's order.
#pragma once

#include "cuda/dtype.cuh"
#include "cuda/reduce.cuh"

#include "common/dtw_align.h"

namespace kshot::cuda {
namespace {

constexpr int kMostAlignThreads = 256;
constexpr int64_t kAlignShared = 48 * 1024;  // what every device gives a block

// Sizes of what a block keeps of a pair.
struct AlignStore {
  int64_t cost_bytes, source_bytes;
  int words;  // of bits of each kind, for an anti-diagonal
  bool shared_costs, shared_sources;

  __host__ __device__ int64_t shared_bytes() const {
    return (shared_costs ? cost_bytes : 0) + (shared_sources ? source_bytes : 0);
  }
  __host__ __device__ int64_t global_bytes() const {
    return (shared_costs ? 0 : cost_bytes) + (shared_sources ? 0 : source_bytes);
  }
};

struct AlignJob {
  DtwAlign args;
  AlignStore store;
  unsigned char* workspace;  // global_bytes() of every block
};

template <class C>
__device__ __forceinline__ C align_distance(const DtwAlign& args, const C* p, const C* t) {
  C sum = 0;
  for (int64_t c = 0; c < args.channels; ++c) {
    const C difference = p[c] - t[c];
    sum += args.euclidean ? difference * difference : (difference < 0 ? -difference : difference);
  }
  return args.euclidean ? sqrt(sum) : sum;
}

template <class C>
class PairAligner {
  static constexpr C kInfinity = static_cast<C>(HUGE_VAL);

 public:
  __device__ PairAligner(const AlignJob& job, unsigned char* shared)
      : args_(job.args), words_(job.store.words) {
    const int64_t pair = blockIdx.x;
    p_ = static_cast<const C*>(args_.predictions) + pair * args_.rows * args_.channels;
    t_ = static_cast<const C*>(args_.targets) + pair * args_.columns * args_.channels;
    path_ = args_.path + pair * args_.path_size() * 2;
    rows_ = args_.prediction_lengths ? args_.prediction_lengths[pair] : args_.rows;
    columns_ = args_.target_lengths ? args_.target_lengths[pair] : args_.columns;
    unsigned char* const global = job.workspace + pair * job.store.global_bytes();
    const AlignStore& store = job.store;
    costs_ = reinterpret_cast<C*>(store.shared_costs ? shared : global);
    const int64_t behind = store.shared_costs == store.shared_sources ? store.cost_bytes : 0;
    sources_ = reinterpret_cast<uint32_t*>((store.shared_sources ? shared : global) + behind);
  }

  __device__ void align() {
    C* cost = static_cast<C*>(args_.cost) + blockIdx.x;
    int64_t steps = 0;
    if (rows_ < 1 || rows_ > args_.rows || columns_ < 1 || columns_ > args_.columns) {
      if (threadIdx.x == 0) *cost = static_cast<C>(NAN);
    } else {
      const C total = find_costs();
      const bool is_finite = total < kInfinity;
      int64_t* start = reinterpret_cast<int64_t*>(costs_);  // costs are not needed any more
      __syncthreads();
      if (threadIdx.x == 0) *start = is_finite ? follow<false>() : follow<true>();
      __syncthreads();
      steps = args_.path_size() - *start;
      move_to_front(steps);
      if (threadIdx.x == 0) *cost = is_finite ? total : sum_along(steps);
    }
    for (int64_t s = steps + threadIdx.x; s < args_.path_size(); s += blockDim.x) {
      path_[2 * s] = path_[2 * s + 1] = -1;
    }
  }

 private:
  // Row k mod 3, whose cell -1 is the first.
  __device__ C* row(int64_t k) { return costs_ + k % 3 * (args_.rows + 2) + 1; }
  __device__ uint32_t* sources_of(int64_t k) { return sources_ + k * (2 * words_ + 1); }

  // The cost of the whole pair, in every thread; leaves the sources of all cells.
  __device__ C find_costs() {
    BandWalk walk(rows_, columns_, args_.band);
    C *current = row(0), *last = row(2), *before_last = row(1);
    if (threadIdx.x < 3) {
      const int cell = static_cast<int>(threadIdx.x) - 1;
      last[cell] = kInfinity;
      before_last[cell] = cell < 0 ? C(0) : kInfinity;  // where the path comes from
    }
    __syncthreads();
    for (int64_t k = 0;; ++k) {
      const int64_t first = walk.first(), end = walk.last();
      // The cells beside the band are asked for, too. A warp begins at a multiple of 32, which may be
      // negative.
      const int64_t begin = (first - 1 + kWarpSize) / kWarpSize * kWarpSize - kWarpSize;
      uint32_t* bits = sources_of(k);
      if (threadIdx.x == 0) bits[0] = static_cast<uint32_t>(begin / kWarpSize + 1);
      for (int64_t i = begin + threadIdx.x; i - threadIdx.x % kWarpSize <= end + 1; i += blockDim.x) {
        const bool inside = first <= i && i <= end;
        bool upper = false, left = false;
        C least = kInfinity;
        if (inside) {
          least = before_last[i - 1];
          upper = last[i - 1] < least;
          if (upper) least = last[i - 1];
          left = last[i] < least;
          if (left) least = last[i];
          const C distance = align_distance(args_, p_ + i * args_.channels, t_ + (k - i) * args_.channels);
          least += distance == distance ? distance : kInfinity;
        }
        if (first - 1 <= i && i <= end + 1) current[i] = least;
        const unsigned uppers = __ballot_sync(kAllLanes, upper), lefts = __ballot_sync(kAllLanes, left);
        if (threadIdx.x % kWarpSize == 0) {
          uint32_t* to = bits + 1 + (i - begin) / kWarpSize * 2;
          to[0] = uppers;
          to[1] = lefts;
        }
      }
      __syncthreads();
      if (k == walk.diagonals() - 1) return current[rows_ - 1];
      C* const next = before_last;
      before_last = last;
      last = current;
      current = next;
      walk.advance();
    }
  }

  // Writes the path to the end of its row; returns where it starts. Run by one thread.
  template <bool may_stray>
  __device__ int64_t follow() {
    int64_t start = args_.path_size();
    Cell cell{rows_ - 1, columns_ - 1};
    for (;;) {
      --start;
      path_[2 * start] = cell.i;
      path_[2 * start + 1] = cell.j;
      if (cell.i + cell.j == 0) return start;
      const uint32_t* bits = sources_of(cell.i + cell.j);
      const uint32_t* word = bits + 1 + (cell.i / kWarpSize + 1 - static_cast<int32_t>(bits[0])) * 2;
      const int lane = static_cast<int>(cell.i % kWarpSize);
      const int upper = static_cast<int>(word[0] >> lane & 1u), left = static_cast<int>(word[1] >> lane & 1u);
      if (may_stray) {
        cell = previous_in_band(cell, upper * kFromUpper + left * kFromLeft, rows_, columns_, args_.band);
      } else {
        cell.i -= 1 - left;
        cell.j -= left | (1 - upper);
      }
    }
  }

  // Moves the path's steps from the end of its row to the front, a block's width at a time.
  __device__ void move_to_front(int64_t steps) {
    const int64_t start = args_.path_size() - steps;
    for (int64_t from = 0; from < steps; from += blockDim.x) {
      const int64_t s = from + threadIdx.x;
      Cell cell{};
      if (s < steps) cell = {path_[2 * (start + s)], path_[2 * (start + s) + 1]};
      __syncthreads();
      if (s < steps) {
        path_[2 * s] = cell.i;
        path_[2 * s + 1] = cell.j;
      }
    }
    __syncthreads();
  }

  // What numbers that are not finite really add up to. Run by one thread.
  __device__ C sum_along(int64_t steps) const {
    C sum = 0;
    for (int64_t s = 0; s < steps; ++s) {
      sum +=
          align_distance(args_, p_ + path_[2 * s] * args_.channels, t_ + path_[2 * s + 1] * args_.channels);
    }
    return sum;
  }

  const DtwAlign& args_;
  int words_;
  const C *p_, *t_;
  int64_t* path_;
  int64_t rows_, columns_;
  C* costs_;
  uint32_t* sources_;
};

template <class C>
__global__ void __launch_bounds__(kMostAlignThreads) dtw_align_kernel(const AlignJob job) {
  KSHOT_DYNAMIC_SHARED(unsigned char, shared);
  PairAligner<C>(job, shared).align();
}

// Adds the derivatives of one distance by the coordinates of `x`, times g, to `grad`.
template <class C>
__device__ __forceinline__ void add_derivative(const DtwAlign& args, const C* x, const C* other, C g,
                                               C* grad) {
  if (!args.euclidean) {
    for (int64_t c = 0; c < args.channels; ++c) {
      const C difference = x[c] - other[c];
      grad[c] += g * static_cast<C>((difference > 0) - (difference < 0));
    }
    return;
  }
  const C length = align_distance(args, x, other);
  const C scale = length == 0 ? C(0) : g / length;
  for (int64_t c = 0; c < args.channels; ++c) grad[c] += scale * (x[c] - other[c]);
}

template <class C>
__global__ void __launch_bounds__(kMostAlignThreads) dtw_align_backward_kernel(const DtwAlignBackward args) {
  const DtwAlign& shape = args.forward;
  const int64_t pair = blockIdx.x, size = shape.path_size();
  const int64_t* path = shape.path + pair * size * 2;
  const C g = static_cast<const C*>(args.grad)[pair];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    C* grad = static_cast<C*>(side == 0 ? args.grad_predictions : args.grad_targets);
    if (!grad) continue;
    const int64_t own_points = side == 0 ? shape.rows : shape.columns;
    const int64_t other_points = side == 0 ? shape.columns : shape.rows;
    const C* own = static_cast<const C*>(side == 0 ? shape.predictions : shape.targets);
    const C* other = static_cast<const C*>(side == 0 ? shape.targets : shape.predictions);
    grad += pair * own_points * shape.channels;
    own += pair * own_points * shape.channels;
    other += pair * other_points * shape.channels;
    for (int64_t c = threadIdx.x; c < own_points * shape.channels; c += blockDim.x) grad[c] = 0;
    __syncthreads();
    for (int64_t s = threadIdx.x; s < size; s += blockDim.x) {
      const int64_t point = path[2 * s + side];
      if (point < 0 || point >= own_points || (s > 0 && path[2 * (s - 1) + side] == point)) continue;
      for (int64_t at = s; at < size && path[2 * at + side] == point; ++at) {
        const int64_t partner = path[2 * at + 1 - side];
        if (partner < 0 || partner >= other_points) break;
        add_derivative(shape, own + point * shape.channels, other + partner * shape.channels, g,
                       grad + point * shape.channels);
      }
    }
  }
}

}  // namespace
}  // namespace kshot::cuda
