// Operator dense_conv2d and its backward: one weight for the batch. Kernels: cpu/dense_conv2d.cpp.
#include <tuple>

#include "ops/dense_panels.h"

namespace kshot {
namespace {

// Targets that one task gathers for all panels: enough to reuse a panel, few enough that their sources stay
// in L2.
constexpr int64_t kTargets = 240;

void gather_all(const cpu::DenseGather& args, const Panels& panels, const float* bias, int64_t batch) {
  const int64_t targets = batch * args.plan->target_pixels;
  parallel_tasks((targets + kTargets - 1) / kTargets, [&](int64_t task) {
    const int64_t begin = task * kTargets, end = std::min(begin + kTargets, targets);
    for (int64_t panel = 0; panel < panels.count(); ++panel) {
      KSHOT_CALL(dense_gather, args, panels.of(panel), panel, bias, begin, end);
    }
  });
}

Tensor with_kernel_in_order(const Tensor& weight) {
  return kernel_lies_in_order(weight) ? weight : torch::stable::contiguous(weight);
}

Tensor dense_conv2d(const Tensor& input,                // [N, C_in, H, W]
                    const Tensor& weight,               // [C_out, C_in, KH, KW]
                    const std::optional<Tensor>& bias,  // [C_out]
                    std::vector<int64_t> stride, std::vector<int64_t> padding,
                    std::vector<int64_t> dilation) {
  const Tensor x = as_channels_last(input);
  const int64_t out_channels = weight.size(0);
  const ConvGeometry geometry =
      conv_geometry(x, out_channels, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  Tensor output = new_channels_last(x, out_channels, geometry.height.output, geometry.width.output);
  const cpu::GatherPlan plan = forward_plan(geometry);
  const Tensor w = with_kernel_in_order(weight);
  const Panels panels({weight_view(w, out_channels, geometry.in_channels)}, Panels::Side::kOutput);
  std::optional<Tensor> biases;
  if (bias) biases = torch::stable::contiguous(*bias);
  gather_all({&plan, geometry.in_channels, out_channels, static_cast<const float*>(x.data_ptr()),
              static_cast<float*>(output.data_ptr())},
             panels, biases ? static_cast<const float*>(biases->data_ptr()) : nullptr, geometry.batch);
  return output;
}

std::tuple<Tensor, Tensor> dense_conv2d_backward(const Tensor& grad,    // [N, C_out, H', W']
                                                 const Tensor& input,   // [N, C_in, H, W]
                                                 const Tensor& weight,  // [C_out, C_in, KH, KW]
                                                 std::vector<int64_t> stride, std::vector<int64_t> padding,
                                                 std::vector<int64_t> dilation, bool need_input,
                                                 bool need_weight) {
  const Tensor x = as_channels_last(input), g = as_channels_last(grad);
  const ConvGeometry geometry =
      conv_geometry(x, g.size(1), {weight.size(2), weight.size(3)}, stride, padding, dilation);
  const Tensor w = with_kernel_in_order(weight);
  const cpu::WeightView view = weight_view(w, geometry.out_channels, geometry.in_channels);
  const Panels panels({view}, Panels::Side::kInput);
  Tensor grad_input = none_like(x), grad_weight = none_like(x);
  if (need_input) {
    grad_input = new_channels_last(x, geometry.in_channels, geometry.height.input, geometry.width.input);
    const cpu::GatherPlan plan = transposed_plan(geometry);
    gather_all({&plan, geometry.out_channels, geometry.in_channels, static_cast<const float*>(g.data_ptr()),
                static_cast<float*>(grad_input.data_ptr())},
               panels, nullptr, geometry.batch);
  }
  if (!need_weight) return {grad_input, grad_weight};

  // Groups of positions with sums of their own give every thread work; they are fixed, so results do not
  // depend on the number of threads.
  const cpu::GatherPlan plan = forward_plan(geometry);
  const cpu::DenseWeightGradient args{&plan, geometry.in_channels, geometry.out_channels,
                                      static_cast<const float*>(x.data_ptr()),
                                      static_cast<const float*>(g.data_ptr())};
  const int64_t positions = geometry.batch * plan.target_pixels;
  const int64_t groups = panels.count() >= 8 ? 1 : 4;
  std::vector<Panels> sums;
  for (int64_t group = 0; group < groups; ++group) sums.push_back(panels.zeros());
  parallel_tasks(panels.count() * groups, [&](int64_t task) {
    const int64_t panel = task / groups, group = task % groups;
    KSHOT_CALL(dense_weight_gradient, args, panel, group * positions / groups,
               (group + 1) * positions / groups, sums[static_cast<size_t>(group)].of(panel));
  });
  for (int64_t group = 1; group < groups; ++group) {
    for (int64_t panel = 0; panel < panels.count(); ++panel) {
      float* into = sums[0].of(panel);
      const float* from = sums[static_cast<size_t>(group)].of(panel);
      for (int64_t e = 0; e < panels.size(); ++e) into[e] += from[e];
    }
  }
  grad_weight = empty_strided(sizes_of(w), strides_of(w), w.scalar_type(), w);
  sums[0].unpack_into({view}, {static_cast<float*>(grad_weight.data_ptr())});
  return {grad_input, grad_weight};
}

}  // namespace
}  // namespace kshot

STABLE_TORCH_LIBRARY_FRAGMENT(kshot_ext, m) {
  m.def(
      "dense_conv2d(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation) "
      "-> "
      "Tensor");
  m.def(
      "dense_conv2d_backward(Tensor grad, Tensor input, Tensor weight, int[] stride, int[] padding, int[] "
      "dilation, "
      "bool need_input, bool need_weight) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(kshot_ext, CPU, m) {
  m.impl("dense_conv2d", TORCH_BOX(&kshot::dense_conv2d));
  m.impl("dense_conv2d_backward", TORCH_BOX(&kshot::dense_conv2d_backward));
}
