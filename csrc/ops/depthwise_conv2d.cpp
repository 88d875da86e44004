// Operator depthwise_conv2d and its backward: checks, allocation, threads. Kernels: cpu/depthwise_conv2d.cpp.
#include "cpu/depthwise_conv2d.h"

#include <tuple>

#include "ops/conv_arguments.h"
#include "ops/registration.h"
#include "ops/tensor_utils.h"

namespace kshot {
namespace {

// Weight [taps, C] or [N, taps, C] and bias [C] or [N, C], checked against the geometry and contiguous.
struct DepthwiseParameters {
  DepthwiseParameters(const Tensor& weight_in, const std::optional<Tensor>& bias_in,
                      const ConvGeometry& geometry)
      : weight(torch::stable::contiguous(weight_in)) {
    const int64_t rank = weight.dim();
    STD_TORCH_CHECK((rank == 2 || (rank == 3 && weight.size(0) == geometry.batch)) &&
                        weight.size(rank - 2) == geometry.taps() &&
                        weight.size(rank - 1) == geometry.in_channels,
                    "weight must be [taps, C] or [N, taps, C] with N, taps, C = ", geometry.batch, ", ",
                    geometry.taps(), ", ", geometry.in_channels);
    weight_stride = rank == 3 ? geometry.taps() * geometry.in_channels : 0;
    if (!bias_in) return;
    bias = torch::stable::contiguous(*bias_in);
    const int64_t bias_rank = bias->dim();
    STD_TORCH_CHECK((bias_rank == 1 || (bias_rank == 2 && bias->size(0) == geometry.batch)) &&
                        bias->size(bias_rank - 1) == geometry.in_channels &&
                        bias->scalar_type() == weight.scalar_type(),
                    "bias must be [C] or [N, C] in the weight's dtype, C = ", geometry.in_channels);
    bias_stride = bias_rank == 2 ? geometry.in_channels : 0;
  }

  Tensor weight;
  std::optional<Tensor> bias;
  int64_t weight_stride = 0, bias_stride = 0;
};

// Arguments of a gather from source to target: forward, or with transposed segments the gradient of the
// input.
struct Gather {
  Gather(const Tensor& source, const ConvGeometry& geometry, const DepthwiseParameters& parameters,
         std::vector<AxisSegment> row_segments, std::vector<AxisSegment> column_segments, Tensor& target)
      : rows(std::move(row_segments)), columns(std::move(column_segments)) {
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
    args.source = source.data_ptr();
    args.weight = parameters.weight.data_ptr();
    args.weight_stride = parameters.weight_stride;
    args.bias = parameters.bias ? parameters.bias->data_ptr() : nullptr;
    args.bias_stride = parameters.bias_stride;
    args.target = target.data_ptr();
    args.past_caches = exceeds_caches(target);
  }
  Gather(const Gather&) = delete;

  std::vector<AxisSegment> rows, columns;
  cpu::DepthwiseGather args{};
};

// Cuts the samples into `groups`, and the channels where groups are fewer than threads, and runs
// body(group, task) on all threads.
template <class Body>
void parallel_groups(int64_t batch, int64_t groups, int64_t channels, const Body& body) {
  const int64_t part = channels_per_task(groups, channels), parts = (channels + part - 1) / part;
  torch::stable::parallel_for(0, groups * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t group = index / parts, channel = index % parts * part;
      body(group, cpu::DepthwiseTask{group * batch / groups, (group + 1) * batch / groups, channel,
                                     std::min(channels, channel + part)});
    }
  });
}

void run_gather(const cpu::DepthwiseGather& args, int64_t batch) {
  const int64_t groups = std::min<int64_t>(batch, 4 * torch::stable::get_num_threads());
  parallel_groups(batch, groups, args.channels,
                  [&](int64_t, const cpu::DepthwiseTask& task) { KSHOT_CALL(depthwise_gather, args, task); });
}

Tensor depthwise_conv2d(const Tensor& input,                // [N, C, H, W]
                        const Tensor& weight,               // [taps, C] or [N, taps, C]
                        const std::optional<Tensor>& bias,  // [C] or [N, C]
                        std::vector<int64_t> kernel, std::vector<int64_t> stride,
                        std::vector<int64_t> padding, std::vector<int64_t> dilation) {
  const Tensor x = as_channels_last(input);
  const ConvGeometry geometry = conv_geometry(x, x.size(1), kernel, stride, padding, dilation);
  const DepthwiseParameters parameters(weight, bias, geometry);
  Tensor output = new_channels_last(x, geometry.out_channels, geometry.height.output, geometry.width.output);
  const Gather gather(x, geometry, parameters, forward_segments(geometry.height),
                      forward_segments(geometry.width), output);
  run_gather(gather.args, geometry.batch);
  return output;
}

// Gradients of weight and bias, and of the input unless `input_gradient` is null. With a shared weight,
// samples are summed in groups and the groups in order, so that the result does not depend on the number of
// threads.
std::tuple<Tensor, Tensor> gradients(const cpu::DepthwiseGather* input_gradient,
                                     const cpu::DepthwiseWeightGradient& args, bool per_sample,
                                     const Tensor& like) {
  constexpr int64_t kGroups = 8;
  const ConvGeometry& geometry = args.geometry;
  const int64_t channels = geometry.out_channels, batch = geometry.batch;
  const int64_t groups = per_sample ? batch : std::min(batch, kGroups);
  const auto dtype = sum_type_of(like);
  const Sizes weight_sizes{groups, geometry.taps(), channels}, bias_sizes{groups, channels};
  Tensor weight = empty_strided(weight_sizes, contiguous_strides(weight_sizes), dtype, like);
  Tensor bias = empty_strided(bias_sizes, contiguous_strides(bias_sizes), dtype, like);
  torch::stable::zero_(weight);
  torch::stable::zero_(bias);
  const auto at = [&](const Tensor& tensor, int64_t index) -> void* {
    return static_cast<char*>(tensor.data_ptr()) + index * static_cast<int64_t>(tensor.element_size());
  };
  parallel_groups(batch, groups, channels, [&](int64_t group, const cpu::DepthwiseTask& task) {
    KSHOT_CALL(depthwise_backward, input_gradient, args, task, at(weight, group * geometry.taps() * channels),
               at(bias, group * channels));
  });
  if (per_sample) return {weight, bias};
  const int64_t over[] = {0};
  return {torch::stable::sum(weight, over), torch::stable::sum(bias, over)};
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv2d_backward(
    const Tensor& grad,    // [N, C, H', W']
    const Tensor& input,   // [N, C, H, W]
    const Tensor& weight,  // [taps, C] or [N, taps, C]
    std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, bool need_input, bool need_parameters) {
  const Tensor x = as_channels_last(input), g = as_channels_last(grad);
  const ConvGeometry geometry = conv_geometry(x, x.size(1), kernel, stride, padding, dilation);
  const DepthwiseParameters parameters(weight, std::nullopt, geometry);
  Tensor grad_input = none_like(x);
  std::optional<Gather> input_gradient;
  if (need_input) {
    grad_input = new_channels_last(x, geometry.in_channels, geometry.height.input, geometry.width.input);
    input_gradient.emplace(g, geometry, parameters, transposed_segments(geometry.height),
                           transposed_segments(geometry.width), grad_input);
  }
  if (!need_parameters) {
    if (need_input) run_gather(input_gradient->args, geometry.batch);
    return {grad_input, none_like(x), none_like(x)};
  }
  const auto rows = forward_segments(geometry.height), columns = forward_segments(geometry.width);
  const cpu::DepthwiseWeightGradient args{dtype_of(x), geometry, &rows, &columns, x.data_ptr(), g.data_ptr()};
  auto [grad_weight, grad_bias] =
      gradients(need_input ? &input_gradient->args : nullptr, args, parameters.weight.dim() == 3, x);
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("depthwise_conv2d", TORCH_BOX(&kshot::depthwise_conv2d));
  m.impl("depthwise_conv2d_backward", TORCH_BOX(&kshot::depthwise_conv2d_backward));
}
