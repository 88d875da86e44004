// The relation of a dynamic grouping (common/group_relation.h) as kernels meet it: element by element of a
// copy of the dictionary, all of which is in use.
#pragma once

#include "common/group_relation.h"
#include "cuda/division.cuh"
#include "cuda/mix_tile.cuh"

namespace kshot::cuda {

constexpr int kMostGates = 16;  // 4^n elements are fewer than 2^31

struct GroupShape {
  MixShape mix;
  FastDivisor row, run;          // elements of a row of a copy, and of a run in it
  FastDivisor row_block, block;  // rows, and elements of a run, of a block
  int gates;

  // The bits in which the blocks of an element's output and input channel differ.
  __device__ __forceinline__ unsigned differing_bits(int index) const {
    const int own_row = row.quotient(index), in_row = row.remainder(index, own_row);
    const int in_run = run.remainder(in_row, run.quotient(in_row));
    return static_cast<unsigned>(row_block.quotient(own_row) ^ block.quotient(in_run));
  }
};

inline GroupShape group_shape(const GroupWeight& args, int64_t element_bytes,
                              std::initializer_list<const void*> pointers) {
  const MixGeometry& geometry = args.mixing.geometry;
  GroupShape shape{};
  shape.mix = mix_shape(geometry, 0, element_bytes, pointers);
  shape.row = FastDivisor(geometry.runs * geometry.run_length);
  shape.run = FastDivisor(geometry.run_length);
  shape.row_block = FastDivisor(args.groups.row_block);
  shape.block = FastDivisor(args.groups.block);
  shape.gates = static_cast<int>(args.groups.gates);
  return shape;
}

// The gates, with those of zero and those of one known by their bits: nothing is multiplied where all are
// binary.
template <class C>
class Gates {
 public:
  __device__ __forceinline__ Gates(const void* values, int count)
      : values_(static_cast<const C*>(values)), count_(count) {
    for (int j = 0; j < count; ++j) {
      const C gate = values_[j];
      if (gate == C(0)) zeros_ |= bit(j);
      if (gate != C(0) && gate != C(1)) others_ |= bit(j);
    }
  }

  __device__ __forceinline__ unsigned bit(int j) const { return 1u << (count_ - 1 - j); }
  __device__ __forceinline__ C relation(unsigned bits) const {
    if (bits & zeros_) return C(0);
    C product = 1;
    if (bits & others_) {
      for (int j = 0; j < count_; ++j) {
        if (bits & others_ & bit(j)) product *= values_[j];
      }
    }
    return product;
  }
  // Whether a single gate could tell of blocks that differ in these bits: at most one gate of zero leaves
  // them out.
  __device__ __forceinline__ bool may_tell_of(unsigned bits) const {
    const unsigned closed = bits & zeros_;
    return (closed & (closed - 1u)) == 0;
  }

 private:
  const C* values_;
  int count_;
  unsigned zeros_ = 0, others_ = 0;
};

// What a thread knows of its elements.
template <class T, class Elements>
struct GroupElements {
  static constexpr int kLanes = kVectorLanes<T>;
  unsigned bits[kLanes];
  Sum<T> relation[kLanes];
  bool connected = false, may_tell = false;  // any of them

  __device__ __forceinline__ GroupElements(const GroupShape& shape, const Gates<Sum<T>>& gates, int tile) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const int index = tile * Elements::kTile + Elements::place(i);
      const bool inside = index < shape.mix.sample_size;
      bits[i] = inside ? shape.differing_bits(index) : 0u;
      relation[i] = inside ? gates.relation(bits[i]) : Sum<T>(0);
      connected = connected || relation[i] != Sum<T>(0);
      may_tell = may_tell || (inside && gates.may_tell_of(bits[i]));
    }
  }

  // values[i] *= relation[i], where a relation of zero makes zero of any number.
  __device__ __forceinline__ void mask(Sum<T> (&values)[kLanes]) const {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      values[i] = relation[i] == Sum<T>(0) ? Sum<T>(0) : relation[i] * values[i];
    }
  }
};

}  // namespace kshot::cuda
