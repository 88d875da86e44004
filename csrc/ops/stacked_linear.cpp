#include "ops/stacked_linear.h"

#include "common/aligned_buffer.h"
#include "cpu/dense_conv2d.h"
#include "cpu/stacked_linear.h"
#include "ops/sum_of_parts.h"

namespace kshot {
namespace {

constexpr int64_t kLeastProducts = 1 << 17;  // of a task: fewer are done before a thread has woken up

cpu::StackedLinear arguments(const Tensor& input, const Tensor& innermost, const Tensor& code,
                             const ConvGeometry& geometry) {
  const Pixels<float> pixels = pixels_of<float>(input);
  return {static_cast<const float*>(innermost.data_ptr()),
          innermost.stride(0),
          innermost.stride(1),
          innermost.size(0),
          geometry.out_channels,
          geometry.in_channels,
          pixels.data,
          pixels.stride,
          geometry.batch,
          static_cast<const float*>(code.data_ptr())};
}

Tensor empty(const Sizes& sizes, const Tensor& like) {
  return empty_strided(sizes, contiguous_strides(sizes), like.scalar_type(), like);
}

// How the backward pass is cut into blocks, whatever the number of threads: panels of input channels, and of
// each some rows of output channels.
struct Blocks {
  explicit Blocks(const cpu::StackedLinear& args) {
    constexpr int64_t kTasks = 16;
    const int64_t products = args.samples * args.shots * args.in_channels * args.out_channels;
    KSHOT_CALL(choose_panel_width, args.in_channels, width);
    panels = (args.in_channels + width - 1) / width;
    const int64_t tasks = std::clamp<int64_t>(products / kLeastProducts, 1, kTasks);
    const int64_t even = args.out_channels * panels / tasks / 12 * 12;
    rows = std::clamp<int64_t>(even, std::min<int64_t>(12, args.out_channels), args.out_channels);
    parts = (args.out_channels + rows - 1) / rows;
  }

  int64_t width = 0, panels, rows, parts;
};

}  // namespace

bool is_one_row(const ConvGeometry& geometry) {
  const auto single = [](const ConvAxis& axis) {
    return axis.kernel == 1 && axis.input == 1 && axis.output == 1 && axis.padding == 0;
  };
  return single(geometry.height) && single(geometry.width);
}

Tensor stacked_forward(const Tensor& input, const Tensor& innermost, const Tensor& code,
                       const std::optional<Tensor>& bias, const ConvGeometry& geometry) {
  Tensor output = new_channels_last(input, geometry.out_channels, 1, 1);
  const cpu::StackedLinear args = arguments(input, innermost, code, geometry);
  const int64_t row_size = args.shots * args.in_channels;
  AlignedBuffer<float> rows(args.samples * row_size);
  torch::stable::parallel_for(
      0, args.samples, std::max<int64_t>(1, kLeastProducts / row_size),
      [&](int64_t begin, int64_t end) { KSHOT_CALL(stacked_rows, args, rows.data(), begin, end); });
  constexpr int64_t kOutputs = 12;  // of a task at least: whole tiles
  const int64_t per_output = std::max<int64_t>(1, args.samples * row_size);
  torch::stable::parallel_for(0, (args.out_channels + kOutputs - 1) / kOutputs,
                              std::max<int64_t>(1, kLeastProducts / (kOutputs * per_output)),
                              [&](int64_t begin, int64_t end) {
                                KSHOT_CALL(stacked_linear, args, rows.data(),
                                           bias ? static_cast<const float*>(bias->data_ptr()) : nullptr,
                                           static_cast<float*>(output.data_ptr()), begin * kOutputs,
                                           std::min(end * kOutputs, args.out_channels));
                              });
  return output;
}

PerSampleGradients stacked_backward(const Tensor& grad, const Tensor& input, const Tensor& innermost,
                                    const Tensor& code, const ConvGeometry& geometry, bool need_input,
                                    bool need_parameters) {
  const Pixels<float> grad_rows = pixels_of<float>(grad);
  const cpu::StackedGradients args{arguments(input, innermost, code, geometry), grad_rows.data,
                                   grad_rows.stride};
  const Blocks blocks(args.forward);
  const int64_t batch = geometry.batch, channels = geometry.in_channels, shots = args.forward.shots;

  const Tensor inputs = need_input ? empty({blocks.parts, batch, channels, 1, 1}, input) : none_like(input);
  const Tensor codes =
      need_parameters ? empty({blocks.parts * blocks.panels, batch, shots}, input) : none_like(input);
  Tensor weight = none_like(input);
  if (need_parameters) {
    weight = empty_strided(sizes_of(innermost), strides_of(innermost), innermost.scalar_type(), innermost);
    const bool whole = geometry.out_channels == innermost.size(1) && channels == innermost.size(2);
    if (!whole || batch == 0) torch::stable::zero_(weight);
  }
  torch::stable::parallel_for(0, blocks.parts * blocks.panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / blocks.panels, lane = task % blocks.panels * blocks.width;
      const auto at = [](const Tensor& tensor, int64_t offset) {
        return static_cast<float*>(tensor.data_ptr()) + offset;
      };
      cpu::StackedBlock block{part * blocks.rows,
                              std::min((part + 1) * blocks.rows, geometry.out_channels),
                              lane,
                              std::min(lane + blocks.width, channels),
                              need_input ? at(inputs, part * batch * channels) : nullptr,
                              need_parameters ? at(codes, task * batch * shots) : nullptr,
                              need_parameters ? at(weight, 0) : nullptr};
      KSHOT_CALL(stacked_linear_backward, args, block);
    }
  });
  const auto joined = [](const Tensor& parts) {
    return parts.size(0) == 1 ? torch::stable::select(parts, 0, 0) : sum_of_parts(parts, 0);
  };
  return {need_input ? joined(inputs) : inputs, weight, need_parameters ? joined(codes) : codes};
}

}  // namespace kshot
