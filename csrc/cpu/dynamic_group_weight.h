// Effective weight under a dynamic grouping, forward and backward: arguments of the kernels; see
// dynamic_group_weight.cpp.
#pragma once

#include <cstdint>

#include "common/group_relation.h"
#include "cpu/isa.h"

namespace kshot::cpu {

struct DynamicGroupWeightBackward {
  GroupWeight forward;  // output unused
  const void* grad;     // dL/d(effective weight), packed as the forward's output
  void* grad_weight;    // like weight; or null
  void* row_dots;       // [N, rows, K] of the sum type: relation * <grad, weight>; or null
  void* block_sums;     // [rows, blocks] of the sum type: <grad, mixed weight> before the relation; or null
  bool past_caches;     // whether grad_weight is too large for the caches
};

struct DynamicGroupWeightReduce {
  const DynamicGroupWeightBackward* backward;
  void* grad_code;   // [N, K] of the sum type; or null
  void* grad_gates;  // [gates] of the sum type; or null
};

// Rows [begin, end) of the effective weight.
KSHOT_DECLARE(void dynamic_group_weight(const GroupWeight& args, int64_t begin, int64_t end))

// Rows [begin, end): writes grad_weight, row_dots and block_sums in one pass over the dictionary.
KSHOT_DECLARE(void dynamic_group_weight_backward(const DynamicGroupWeightBackward& args, int64_t begin,
                                                 int64_t end))

// Sums row_dots and block_sums over rows, in an order that no thread count changes.
KSHOT_DECLARE(void dynamic_group_weight_reduce(const DynamicGroupWeightReduce& args))

}  // namespace kshot::cpu
