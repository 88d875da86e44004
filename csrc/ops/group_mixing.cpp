// Parallel passes over a dictionary under a dynamic grouping on the CPU.
#include "ops/group_mixing.h"

#include "cpu/dynamic_group_weight.h"
#include "ops/parallel_rows.h"

namespace kshot {
namespace {

Tensor scratch_of(const Sizes& sizes, const Tensor& like) {
  return empty_strided(sizes, contiguous_strides(sizes), like.scalar_type(), like);
}

}  // namespace

void run_group_forward(const GroupMixing& mixing, const Tensor& output) {
  GroupWeight args = mixing.kernel_arguments();
  args.mixing.output = output.data_ptr();
  parallel_rows({&args.mixing.geometry}, [&](size_t, int64_t begin, int64_t end) {
    KSHOT_CALL(dynamic_group_weight, args, begin, end);
  });
}

void run_group_backward(const GroupMixingGradients& gradients) {
  const auto address = [](const Tensor& tensor) { return tensor.numel() > 0 ? tensor.data_ptr() : nullptr; };
  cpu::DynamicGroupWeightBackward args{};
  args.forward = gradients.mixing.kernel_arguments();
  args.grad = gradients.grad.data_ptr();
  args.grad_weight = address(gradients.grad_weight);
  args.past_caches = exceeds_caches(gradients.grad_weight);
  const MixGeometry& geometry = args.forward.mixing.geometry;
  const Tensor& code = gradients.mixing.mixing().code();
  cpu::DynamicGroupWeightReduce reduce{&args, address(gradients.grad_code), address(gradients.grad_gates)};
  Tensor row_dots, block_sums;
  if (reduce.grad_code) {
    row_dots = scratch_of({geometry.samples, geometry.rows, geometry.shots}, code);
    args.row_dots = row_dots.data_ptr();
  }
  if (reduce.grad_gates) {
    block_sums = scratch_of({geometry.rows, args.forward.groups.blocks()}, code);
    args.block_sums = block_sums.data_ptr();
  }
  parallel_rows({&geometry}, [&](size_t, int64_t begin, int64_t end) {
    if (args.grad_weight || args.row_dots || args.block_sums)
      KSHOT_CALL(dynamic_group_weight_backward, args, begin, end);
  });
  KSHOT_CALL(dynamic_group_weight_reduce, reduce);
}

}  // namespace kshot
