// Effective weight of a dictionary under a dynamic grouping, mixed and masked in one pass:
//
//     effective[n, o, i, :] = relation[o, i] * sum_k code[n, k] * weight[k, o, i, :]
//
// with the relation of common/group_relation.h, r[d] by the bits d in which the blocks of o and i differ, and
// its derivatives, with g = dL/d(effective) and s[d] = sum over n and the o, i that differ in d of
// <g[n, o, i, :], sum_k code[n, k] weight[k, o, i, :]>:
//
//     dL/dweight[k, o, i, :] = relation[o, i] * sum_n code[n, k] * g[n, o, i, :]
//     dL/dcode[n, k]         = sum_{o, i} relation[o, i] * <g[n, o, i, :], weight[k, o, i, :]>
//     dL/dh_j                = sum over the d that have bit j of s[d] * product of the other gates of d
//
// A task owns whole rows o, so threads never share an output. Where the relation is zero nothing is read, and
// zeros are written. Floor of bytes for a weight of B bytes, of which a share q has a relation that is not
// zero (1 / groups, with binary gates): forward K q B read and B written. Backward q B and K q B read, K B
// written; gates also ask what the blocks would add that a single gate of zero leaves out: with z such gates
// (1 + z) q in place of q. Bound by memory.
#include "cpu/dynamic_group_weight.h"

#include <algorithm>
#include <vector>

#include "cpu/mix_chunks.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// The relation of blocks that differ in the bits d, for every d; gate `left_out` counts as one.
template <class C>
std::vector<C> relation_table(const GroupRelation& groups, int64_t left_out = -1) {
  std::vector<C> table(static_cast<size_t>(groups.blocks()), C(1));
  for (int64_t j = groups.gates - 1; j >= 0; --j) {
    const C gate = j == left_out ? C(1) : static_cast<const C*>(groups.values)[j];
    for (int64_t d = 0; d < groups.bit(j); ++d) table[groups.bit(j) + d] = gate * table[d];
  }
  return table;
}

// Whether a gate could tell of the blocks that differ in the bits d: if two gates of zero leave them out, not
// one of them would bring them in alone.
template <class C>
std::vector<char> matter_to_gates(const GroupRelation& groups) {
  std::vector<char> closed(static_cast<size_t>(groups.blocks()), 0);
  for (int64_t j = groups.gates - 1; j >= 0; --j) {
    const bool shut = static_cast<const C*>(groups.values)[j] == C(0);
    for (int64_t d = 0; d < groups.bit(j); ++d) {
      closed[groups.bit(j) + d] = static_cast<char>(std::min(2, closed[d] + (shut ? 1 : 0)));
    }
  }
  for (char& count : closed) count = count < 2;
  return closed;
}

template <class T>
struct Typed {
  using C = Sum<T>;
  const GroupWeight& args;
  const MixGeometry& geometry = args.mixing.geometry;
  const T* weight = static_cast<const T*>(args.mixing.weight);
  std::vector<C> relation = relation_table<C>(args.groups);

  const C* code(int64_t n) const { return static_cast<const C*>(args.mixing.code) + n * geometry.shots; }
};

// Calls body(row, first block, relation, bits, weight offset, packed offset, length) for each stretch of the
// rows [begin, end) with one relation; for each block by itself if `apart`, or where the relation is neither
// of those beside it.
template <class T, class Body>
void for_each_stretch(const Typed<T>& typed, int64_t begin, int64_t end, bool apart, const Body& body) {
  const MixGeometry& geometry = typed.geometry;
  const GroupRelation& groups = typed.args.groups;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t own = row / groups.row_block;
    for (int64_t run = 0; run < geometry.runs; ++run) {
      for (int64_t block = 0, next; block < groups.blocks(); block = next) {
        const int64_t bits = own ^ block;
        const Sum<T> relation = typed.relation[bits];
        for (next = block + 1; !apart && next < groups.blocks(); ++next) {
          if (typed.relation[own ^ next] != relation) break;
        }
        const int64_t at = block * groups.block;
        body(row, block, relation, bits, geometry.weight_offset(row, run) + at,
             geometry.packed_offset(row, run) + at, (next - block) * groups.block);
      }
    }
  }
}

template <class T>
void forward(const GroupWeight& args, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const Typed<T> typed{args};
  const MixGeometry& geometry = typed.geometry;
  T* output = static_cast<T*>(args.mixing.output);
  const auto mix = [&](int64_t, int64_t, C relation, int64_t, int64_t weight_at, int64_t packed_at,
                       int64_t length) {
    for (int64_t i = 0; i < length; i += kMixChunk) {
      const int64_t count = std::min(kMixChunk, length - i);
      for (int64_t n = 0; n < geometry.samples; ++n) {
        T* target = output + n * geometry.sample_size + packed_at + i;
        if (relation == C(0)) {
          std::fill_n(target, count, T{});
        } else {
          mix_chunk(target, typed.weight + weight_at + i, geometry.shot_stride, typed.code(n), geometry.shots,
                    relation, count);
        }
      }
    }
  };
  for_each_stretch(typed, begin, end, false, mix);
}

template <class T>
void backward(const DynamicGroupWeightBackward& args, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const Typed<T> typed{args.forward};
  const MixGeometry& geometry = typed.geometry;
  const GroupRelation& groups = args.forward.groups;
  const T* grad = static_cast<const T*>(args.grad);
  T* grad_weight = static_cast<T*>(args.grad_weight);
  C *row_dots = static_cast<C*>(args.row_dots), *block_sums = static_cast<C*>(args.block_sums);
  const auto dots_of = [&](int64_t n, int64_t row) {
    return row_dots + (n * geometry.rows + row) * geometry.shots;
  };
  std::vector<char> matter;
  if (block_sums) {
    matter = matter_to_gates<C>(groups);
    std::fill(block_sums + begin * groups.blocks(), block_sums + end * groups.blocks(), C(0));
  }
  if (row_dots) {
    for (int64_t n = 0; n < geometry.samples; ++n) std::fill(dots_of(n, begin), dots_of(n, end), C(0));
  }
  std::vector<C> dots(static_cast<size_t>(geometry.shots));
  const auto differentiate = [&](int64_t row, int64_t block, C relation, int64_t bits, int64_t weight_at,
                                 int64_t packed_at, int64_t length) {
    const bool summed = block_sums && matter[bits], dotted = row_dots && relation != C(0);
    for (int64_t n = 0; (summed || dotted) && n < geometry.samples; ++n) {
      std::fill(dots.begin(), dots.end(), C(0));
      dot_chunk(dots.data(), grad + n * geometry.sample_size + packed_at, typed.weight + weight_at,
                geometry.shot_stride, geometry.shots, length);
      for (int64_t k = 0; k < geometry.shots; ++k) {
        if (dotted) dots_of(n, row)[k] += relation * dots[k];
        if (summed) block_sums[row * groups.blocks() + block] += typed.code(n)[k] * dots[k];
      }
    }
    if (!grad_weight) return;
    T* target = grad_weight + weight_at;
    if (relation == C(0)) {
      for (int64_t k = 0; k < geometry.shots; ++k)
        std::fill_n(target + k * geometry.shot_stride, length, T{});
    } else {
      const bool past_caches = args.past_caches && can_pass_caches(target, geometry.shot_stride);
      grad_weight_chunk(
          target, grad + packed_at, geometry, typed.code(0), [&](int64_t) { return relation; }, length,
          past_caches);
    }
  };
  for_each_stretch(typed, begin, end, block_sums != nullptr, differentiate);
  if (args.past_caches) finish_stores();
}

template <class T>
void reduce(const DynamicGroupWeightReduce& args) {
  using C = Sum<T>;
  const MixGeometry& geometry = args.backward->forward.mixing.geometry;
  const GroupRelation& groups = args.backward->forward.groups;
  C *grad_code = static_cast<C*>(args.grad_code), *grad_gates = static_cast<C*>(args.grad_gates);
  if (grad_code) {
    const C* dots = static_cast<const C*>(args.backward->row_dots);
    std::fill_n(grad_code, geometry.samples * geometry.shots, C(0));
    for (int64_t n = 0; n < geometry.samples; ++n) {
      for (int64_t row = 0; row < geometry.rows; ++row, dots += geometry.shots) {
        for (int64_t k = 0; k < geometry.shots; ++k) grad_code[n * geometry.shots + k] += dots[k];
      }
    }
  }
  if (!grad_gates) return;
  const C* block_sums = static_cast<const C*>(args.backward->block_sums);
  std::vector<C> sums(static_cast<size_t>(groups.blocks()), C(0));  // s[d]
  for (int64_t row = 0; row < geometry.rows; ++row) {
    for (int64_t block = 0; block < groups.blocks(); ++block) {
      sums[(row / groups.row_block) ^ block] += block_sums[row * groups.blocks() + block];
    }
  }
  for (int64_t j = 0; j < groups.gates; ++j) {
    const std::vector<C> others = relation_table<C>(groups, j);
    grad_gates[j] = C(0);
    for (int64_t d = 0; d < groups.blocks(); ++d) {
      if (d & groups.bit(j)) grad_gates[j] += others[d] * sums[d];
    }
  }
}

}  // namespace

void dynamic_group_weight(const GroupWeight& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.mixing.dtype,
                 [&](auto* type) { forward<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

void dynamic_group_weight_backward(const DynamicGroupWeightBackward& args, int64_t begin, int64_t end) {
  dispatch_dtype(args.forward.mixing.dtype,
                 [&](auto* type) { backward<std::remove_pointer_t<decltype(type)>>(args, begin, end); });
}

void dynamic_group_weight_reduce(const DynamicGroupWeightReduce& args) {
  dispatch_dtype(args.backward->forward.mixing.dtype,
                 [&](auto* type) { reduce<std::remove_pointer_t<decltype(type)>>(args); });
}

}  // namespace kshot::cpu::KSHOT_ISA
