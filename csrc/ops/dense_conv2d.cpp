#include "ops/dense_conv2d.h"

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

// How the positions of a weight's gradient are cut into groups with sums of their own. Groups do not depend
// on the number of threads, so neither do results; panels are shared out as the threads ask.
struct Groups {
  Groups(const cpu::WeightView& weight, int64_t positions) : positions(positions) {
    constexpr int64_t kLeastPositions = 256, kMostGroups = 8, kSums = 1 << 18;  // per group; groups; elements
    const int64_t elements = weight.taps * weight.in_channels * weight.out_channels;
    const int64_t affordable = std::clamp<int64_t>(kSums / elements, 1, kMostGroups);
    count = std::clamp<int64_t>(positions / kLeastPositions, 1, affordable);
    const int64_t threads = torch::stable::get_num_threads();
    slices = (threads + count - 1) / count;
  }
  int64_t begin(int64_t group) const { return group * positions / count; }

  int64_t positions, count, slices;
};

// Gradient of the weight, in panels. If a group has all panels, `before(begin, end)` runs before each stretch
// of positions that stays in L2.
template <class Before>
Panels weight_gradient(const cpu::DenseWeightGradient& args, const cpu::WeightView& weight,
                       const Groups& groups, const Before& before) {
  const int64_t stretch = std::clamp<int64_t>((1 << 16) / args.out_channels / 128 * 128, 128, 1024);
  const Panels::Side side = args.by_output ? Panels::Side::kOutput : Panels::Side::kInput;
  std::vector<Panels> sums;
  for (int64_t group = 0; group < groups.count; ++group) sums.push_back(Panels::zeros(weight, side));
  const Panels& panels = sums[0];
  parallel_tasks(groups.count * groups.slices, [&](int64_t task) {
    const int64_t group = task / groups.slices, slice = task % groups.slices;
    const int64_t first = slice * panels.count() / groups.slices,
                  last = (slice + 1) * panels.count() / groups.slices;
    const int64_t end = groups.begin(group + 1);
    for (int64_t begin = groups.begin(group); begin < end; begin += stretch) {
      before(begin, std::min(begin + stretch, end));
      KSHOT_CALL(dense_weight_gradient, args, sums[static_cast<size_t>(group)].range(first, last), begin,
                 std::min(begin + stretch, end));
    }
  });
  parallel_tasks(groups.count > 1 ? panels.count() : 0, [&](int64_t panel) {
    for (size_t group = 1; group < sums.size(); ++group) {
      KSHOT_CALL(add_panels, sums[0].of(panel), sums[group].of(panel), panels.size());
    }
  });
  return std::move(sums[0]);
}

Tensor with_kernel_in_order(const Tensor& weight) {
  return kernel_lies_in_order(weight) ? weight : as_contiguous(weight);
}

}  // namespace

Tensor dense_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const ConvGeometry& geometry) {
  const int64_t out_channels = geometry.out_channels;
  Tensor output = new_channels_last(input, out_channels, geometry.height.output, geometry.width.output);
  const GatherPlan plan = forward_plan(geometry);
  const Tensor w = with_kernel_in_order(weight);
  const Panels panels({weight_view(w, out_channels, geometry.in_channels)}, Panels::Side::kOutput);
  gather_all({&plan, geometry.in_channels, out_channels, pixels_of<float>(input),
              static_cast<float*>(output.data_ptr()), exceeds_caches(output)},
             panels, bias ? static_cast<const float*>(bias->data_ptr()) : nullptr, geometry.batch);
  return output;
}

ConvGradients dense_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                             const ConvGeometry& geometry, bool need_input, bool need_weight) {
  const Tensor w = with_kernel_in_order(weight);
  const cpu::WeightView view = weight_view(w, geometry.out_channels, geometry.in_channels);
  const Panels panels({view}, Panels::Side::kInput);
  Tensor grad_input = none_like(input), grad_weight = none_like(input);
  const GatherPlan transposed = need_input ? transposed_plan(geometry) : GatherPlan{};
  cpu::DenseGather gather{
      &transposed, geometry.out_channels, geometry.in_channels, pixels_of<float>(grad), nullptr, false};
  if (need_input) {
    grad_input = new_channels_last(input, geometry.in_channels, geometry.height.input, geometry.width.input);
    gather.target = static_cast<float*>(grad_input.data_ptr());
    gather.past_caches = exceeds_caches(grad_input);
  }
  if (!need_weight) {
    if (need_input) gather_all(gather, panels, nullptr, geometry.batch);
    return {grad_input, grad_weight};
  }

  const GatherPlan plan = forward_plan(geometry);
  const bool by_output =
      geometry.out_channels > geometry.in_channels;  // the wider side makes the fuller lanes
  const cpu::DenseWeightGradient args{&plan,
                                      geometry.in_channels,
                                      geometry.out_channels,
                                      pixels_of<float>(input),
                                      pixels_of<float>(grad),
                                      by_output,
                                      0,
                                      by_output ? geometry.in_channels : geometry.out_channels};
  const Groups groups(view, geometry.batch * plan.places());
  // Where positions of input and output are the same, both gradients are made side by side: the rows of the
  // output's gradient are then read from memory once.
  const bool side_by_side = need_input && plan.in_order && groups.slices == 1;
  if (need_input && !side_by_side) gather_all(gather, panels, nullptr, geometry.batch);
  const Panels sums = weight_gradient(args, view, groups, [&](int64_t begin, int64_t end) {
    if (side_by_side) KSHOT_CALL(dense_gather, gather, panels.range(0, panels.count()), nullptr, begin, end);
  });
  grad_weight = new_packed_like(w);
  sums.unpack_into(weight_view(grad_weight, view.out_channels, view.in_channels),
                   static_cast<float*>(grad_weight.data_ptr()));
  return {grad_input, grad_weight};
}

}  // namespace kshot
