// Effective weight under a dynamic grouping, forward and backward: arguments and launch functions; see
// dynamic_group_weight.cuh and dynamic_group_weight_backward.cuh.
#pragma once

#include <cstdint>

#include "common/group_relation.h"

namespace kshot::cuda {

struct DynamicGroupWeightBackward {
  GroupWeight forward;  // output unused
  const void* grad;     // dL/d(effective weight), packed as the forward's output
  void* grad_weight;    // like weight; or null
  void* grad_code;      // [N, K] of the sum type; or null
  void* grad_gates;     // [gates] of the sum type; or null
};

// One copy of a dictionary has fewer than 2^31 elements.
void dynamic_group_weight(const GroupWeight& args, void* stream);

// Bytes of scratch memory that dynamic_group_weight_backward needs, aligned to 16.
int64_t dynamic_group_weight_backward_workspace(const DynamicGroupWeightBackward& args);

void dynamic_group_weight_backward(const DynamicGroupWeightBackward& args, void* workspace, void* stream);

}  // namespace kshot::cuda
