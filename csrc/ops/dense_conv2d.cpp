// Operator dense_conv2d and its backward: one weight for the batch. Kernels: cpu/dense_conv2d.cpp.
#include <tuple>

#include "ops/dense_panels.h"

namespace kshot {
namespace {

void gather_all(const cpu::DenseGather& args, const Panels& panels, const float* bias, int64_t batch) {
  const int64_t targets = batch * args.plan->places();
  const int64_t tasks = std::min<int64_t>(4 * torch::stable::get_num_threads(), (targets + 47) / 48);
  parallel_tasks(tasks, [&](int64_t task) {
    KSHOT_CALL(dense_gather, args, panels.range(0, panels.count()), bias, task * targets / tasks,
               (task + 1) * targets / tasks);
  });
}

// Gradient of the weight, in panels like `panels`. Positions are cut into groups with sums of their own,
// which do not depend on the number of threads; panels are then shared out as the threads ask.
Panels weight_gradient(const cpu::DenseWeightGradient& args, const Panels& panels, int64_t positions) {
  constexpr int64_t kLeastPositions = 256, kMostGroups = 8, kSums = 1 << 18;  // per group; groups; elements
  const int64_t affordable = std::clamp<int64_t>(kSums / (panels.count() * panels.size()), 1, kMostGroups);
  const int64_t groups = std::clamp<int64_t>(positions / kLeastPositions, 1, affordable);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t slices = std::min((threads + groups - 1) / groups, panels.count());
  std::vector<Panels> sums;
  for (int64_t group = 0; group < groups; ++group) sums.push_back(panels.zeros());
  parallel_tasks(groups * slices, [&](int64_t task) {
    const int64_t group = task / slices, slice = task % slices;
    KSHOT_CALL(dense_weight_gradient, args,
               sums[static_cast<size_t>(group)].range(slice * panels.count() / slices,
                                                      (slice + 1) * panels.count() / slices),
               group * positions / groups, (group + 1) * positions / groups);
  });
  parallel_tasks(groups > 1 ? panels.count() : 0, [&](int64_t panel) {
    for (size_t group = 1; group < sums.size(); ++group) {
      KSHOT_CALL(add_panels, sums[0].of(panel), sums[group].of(panel), panels.size());
    }
  });
  return std::move(sums[0]);
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
              static_cast<float*>(output.data_ptr()), exceeds_caches(output)},
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
                static_cast<float*>(grad_input.data_ptr()), exceeds_caches(grad_input)},
               panels, nullptr, geometry.batch);
  }
  if (!need_weight) return {grad_input, grad_weight};

  const cpu::GatherPlan plan = forward_plan(geometry);
  const cpu::DenseWeightGradient args{&plan, geometry.in_channels, geometry.out_channels,
                                      static_cast<const float*>(x.data_ptr()),
                                      static_cast<const float*>(g.data_ptr())};
  const Panels sums = weight_gradient(args, panels, geometry.batch * plan.places());
  grad_weight = empty_strided(sizes_of(w), strides_of(w), w.scalar_type(), w);
  sums.unpack_into({view}, {static_cast<float*>(grad_weight.data_ptr())});
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
