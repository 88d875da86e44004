// Depthwise links: allocation and threads around cpu/chained_depthwise.cpp.
#include "ops/chained_depthwise.h"

#include "ops/depthwise_tasks.h"
#include "ops/sum_of_parts.h"

namespace kshot {
namespace {

// The kernels' arguments, with the tables behind them.
struct DepthwiseLink {
  DepthwiseLink(const ChainOperand& input, const Tensor& weight, const ConvGeometry& geometry)
      : rows(forward_segments(geometry.height), geometry.height.output, geometry.height.input),
        columns(forward_segments(geometry.width)),
        transposed_rows(transposed_segments(geometry.height), geometry.height.input, geometry.height.output),
        transposed_columns(transposed_segments(geometry.width)) {
    args = {
        geometry, &rows, &columns, input.args(), floats_of(weight), weight.dim() == 3 ? weight.stride(0) : 0};
  }
  DepthwiseLink(const DepthwiseLink&) = delete;

  AxisTaps rows;
  std::vector<AxisSegment> columns;
  AxisTaps transposed_rows;
  std::vector<AxisSegment> transposed_columns;
  cpu::ChainDepthwise args{};
};

}  // namespace

void chained_depthwise_forward(const ChainOperand& input, const Tensor& weight, const ConvGeometry& geometry,
                               const Tensor& output, float* mean, float* variance) {
  constexpr int64_t kGroups = 16;
  const DepthwiseLink link(input, weight, geometry);
  const cpu::ChainResult result = chain_result(output);
  const int64_t batch = geometry.batch, channels = geometry.in_channels, groups = std::min(batch, kGroups);
  GroupMoments moments(mean ? groups : 0, channels);
  for (int64_t group = 0; mean && group < groups; ++group) {
    moments.count(group) = ((group + 1) * batch / groups - group * batch / groups) * geometry.height.output *
                           geometry.width.output;
  }
  parallel_groups(batch, groups, channels, [&](int64_t group, const cpu::DepthwiseTask& task) {
    KSHOT_CALL(chained_depthwise, link.args, result, task, mean ? moments.of(group) : nullptr);
  });
  if (mean) moments.join(mean, variance);
}

ChainedGradients chained_depthwise_backward(const ChainOperand& input, const ChainOutputGradient& gradient,
                                            const Tensor& weight, const ConvGeometry& geometry,
                                            const Tensor& grad_input) {
  constexpr int64_t kGroups = 8;
  const DepthwiseLink link(input, weight, geometry);
  const int64_t batch = geometry.batch, channels = geometry.in_channels;
  const bool per_sample = weight.dim() == 3;
  const int64_t groups = per_sample ? batch : std::clamp<int64_t>(batch, 1, kGroups);
  const GroupSums sums(input, groups);
  cpu::ChainDepthwiseBackward args{link.args,       &link.transposed_rows, &link.transposed_columns,
                                   gradient.args(), cpu::ChainResult{},    sums.stride()};
  if (grad_input.numel() > 0) args.grad_input = chain_result(grad_input);
  Tensor parts = new_floats({groups, geometry.taps(), channels}, input.input());
  parallel_groups(batch, groups, channels, [&](int64_t group, const cpu::DepthwiseTask& task) {
    KSHOT_CALL(chained_depthwise_backward, args, task, floats_of(parts) + group * parts.stride(0),
               input.has_norm() ? sums.of(group) : nullptr);
  });
  return {per_sample ? parts : sum_of_parts(parts, 0),
          input.has_norm() ? sums.joined() : none_like(input.input())};
}

}  // namespace kshot
