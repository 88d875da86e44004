#include "ops/depthwise_conv2d.h"

#include "cpu/depthwise_conv2d.h"
#include "ops/conv_arguments.h"
#include "ops/depthwise_tasks.h"
#include "ops/sum_of_parts.h"
#include "ops/tensor_utils.h"

namespace kshot {
namespace {

// Elements from one sample's weight to the next, or 0 if all share one.
int64_t weight_stride(const Tensor& weight) {
  return weight.dim() == 3 ? weight.stride(0) : 0;
}

// Arguments of a gather from source to target: forward, or with transposed segments the gradient of the
// input.
struct Gather {
  Gather(const Tensor& source, const ConvGeometry& geometry, const Tensor& weight,
         const std::optional<Tensor>& bias, const std::vector<AxisSegment>& row_segments,
         std::vector<AxisSegment> column_segments, Tensor& target)
      : rows(row_segments, target.size(2), source.size(2)), columns(std::move(column_segments)) {
    args.dtype = dtype_of(source);
    args.channels = geometry.in_channels;
    args.source_height = source.size(2);
    args.source_width = source.size(3);
    args.target_height = target.size(2);
    args.target_width = target.size(3);
    args.rows = &rows;
    args.columns = &columns;
    args.kernel_height = geometry.height.kernel;
    args.kernel_width = geometry.width.kernel;
    args.source = pixels_of(source);
    args.weight = weight.data_ptr();
    args.weight_stride = weight_stride(weight);
    args.bias = bias ? bias->data_ptr() : nullptr;
    args.bias_stride = bias && bias->dim() == 2 ? geometry.in_channels : 0;
    args.target = target.data_ptr();
    args.past_caches = exceeds_caches(target);
  }
  Gather(const Gather&) = delete;

  AxisTaps rows;
  std::vector<AxisSegment> columns;
  cpu::DepthwiseGather args{};
};

void run_gather(const cpu::DepthwiseGather& args, int64_t batch) {
  const int64_t groups = std::min<int64_t>(batch, 4 * torch::stable::get_num_threads());
  parallel_groups(batch, groups, args.channels,
                  [&](int64_t, const cpu::DepthwiseTask& task) { KSHOT_CALL(depthwise_gather, args, task); });
}

// Gradient of the weight, and of the input unless `input_gradient` is null. With a shared weight, samples are
// summed in groups and the groups in order, so that the result does not depend on the number of threads.
Tensor weight_gradient(const cpu::DepthwiseGather* input_gradient, const cpu::DepthwiseWeightGradient& args,
                       bool per_sample, const Tensor& like) {
  constexpr int64_t kGroups = 8;
  const ConvGeometry& geometry = args.geometry;
  const int64_t channels = geometry.out_channels, batch = geometry.batch;
  const int64_t groups = per_sample ? batch : std::clamp<int64_t>(batch, 1, kGroups);
  const Sizes sizes{groups, geometry.taps(), channels};
  Tensor sums = empty_strided(sizes, contiguous_strides(sizes), sum_type_of(like), like);
  const int64_t group_bytes = geometry.taps() * channels * static_cast<int64_t>(sums.element_size());
  parallel_groups(batch, groups, channels, [&](int64_t group, const cpu::DepthwiseTask& task) {
    KSHOT_CALL(depthwise_backward, input_gradient, args, task,
               static_cast<char*>(sums.data_ptr()) + group * group_bytes);
  });
  return per_sample ? sums : sum_of_parts(sums, 0);
}

}  // namespace

Tensor depthwise_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                         const ConvGeometry& geometry, Activation activation) {
  Tensor output =
      new_channels_last(input, geometry.out_channels, geometry.height.output, geometry.width.output);
  Gather gather(input, geometry, weight, bias, forward_segments(geometry.height),
                forward_segments(geometry.width), output);
  gather.args.activation = activation;
  run_gather(gather.args, geometry.batch);
  return output;
}

ConvGradients depthwise_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                 const ConvGeometry& geometry, bool need_input, bool need_weight) {
  Tensor grad_input = none_like(input);
  std::optional<Gather> input_gradient;
  if (need_input) {
    grad_input = new_channels_last(input, geometry.in_channels, geometry.height.input, geometry.width.input);
    input_gradient.emplace(grad, geometry, weight, std::nullopt, transposed_segments(geometry.height),
                           transposed_segments(geometry.width), grad_input);
  }
  if (!need_weight) {
    if (need_input) run_gather(input_gradient->args, geometry.batch);
    return {grad_input, none_like(input)};
  }
  const AxisTaps rows(forward_segments(geometry.height), geometry.height.output, geometry.height.input);
  const auto columns = forward_segments(geometry.width);
  const cpu::DepthwiseWeightGradient args{dtype_of(input), geometry,         &rows,
                                          &columns,        pixels_of(input), pixels_of(grad)};
  return {grad_input,
          weight_gradient(need_input ? &input_gradient->args : nullptr, args, weight.dim() == 3, input)};
}

}  // namespace kshot
