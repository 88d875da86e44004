// Operator per_sample_conv2d and its backward: a dense convolution whose weight is mixed anew for every
// sample.
//
// Tasks run over (panel, sample) with the panel outermost: the K copies of a panel stay in cache while the
// samples go by, each mixing its own panel from them, so the dictionary is read from memory once and no
// sample's weight is ever stored whole.
#include <tuple>

#include "ops/dense_panels.h"
#include "ops/dictionary.h"

namespace kshot {
namespace {

// The active parts of the K copies of a dictionary [K, C_out, C_in, KH, KW].
std::vector<cpu::WeightView> copies_of(const Dictionary& dictionary, int64_t out_channels,
                                       int64_t in_channels) {
  std::vector<cpu::WeightView> copies;
  for (int64_t k = 0; k < dictionary.shots(); ++k) {
    copies.push_back(
        weight_view(torch::stable::select(dictionary.tensor(), 0, k), out_channels, in_channels));
  }
  return copies;
}

void check_code(const Tensor& code, int64_t batch, int64_t shots) {
  STD_TORCH_CHECK(code.dim() == 2 && code.size(0) == batch && code.size(1) == shots &&
                      code.scalar_type() == torch::headeronly::ScalarType::Float,
                  "code must be [N, K] of float32 with N, K = ", batch, ", ", shots);
}

// Mixes the panel of every sample and hands it to body(panel, sample, mixed).
template <class Body>
void for_each_mixed_panel(const Panels& panels, const Tensor& code, const Body& body) {
  const int64_t batch = code.size(0), shots = panels.shots();
  const float* codes = static_cast<const float*>(code.data_ptr());
  torch::stable::parallel_for(0, panels.count() * batch, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer<float> mixed(panels.size());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / batch, n = task % batch;
      KSHOT_CALL(mix_panel, panels.of(panel), panels.size(), codes + n * shots, shots, panels.size(),
                 mixed.data());
      body(panel, n, mixed.data());
    }
  });
}

Tensor per_sample_conv2d(const Tensor& input,                // [N, C_in', H, W]
                         const Tensor& weight,               // [K, C_out, C_in, KH, KW]
                         const Tensor& code,                 // [N, K]
                         const std::optional<Tensor>& bias,  // [N, C_out']
                         int64_t out_channels, std::vector<int64_t> stride, std::vector<int64_t> padding,
                         std::vector<int64_t> dilation) {
  const Tensor x = as_channels_last(input), codes = torch::stable::contiguous(code);
  const ConvGeometry geometry =
      conv_geometry(x, out_channels, {weight.size(3), weight.size(4)}, stride, padding, dilation);
  check_code(codes, geometry.batch, weight.size(0));
  std::optional<Tensor> biases;
  if (bias) biases = torch::stable::contiguous(*bias);
  Tensor output = new_channels_last(x, out_channels, geometry.height.output, geometry.width.output);

  const cpu::GatherPlan plan = forward_plan(geometry);
  const Dictionary dictionary(weight);
  const Panels panels(copies_of(dictionary, out_channels, geometry.in_channels), Panels::Side::kOutput);
  const cpu::DenseGather args{&plan,
                              geometry.in_channels,
                              out_channels,
                              static_cast<const float*>(x.data_ptr()),
                              static_cast<float*>(output.data_ptr()),
                              false};
  for_each_mixed_panel(panels, codes, [&](int64_t panel, int64_t n, const float* mixed) {
    const float* bias_n = biases ? static_cast<const float*>(biases->data_ptr()) + n * out_channels : nullptr;
    KSHOT_CALL(dense_gather, args, {mixed, 0, panels.width(), panel, panel + 1}, bias_n, n * plan.places(),
               (n + 1) * plan.places());
  });
  return output;
}

// Gradients of the dictionary and the codes. The samples are cut into groups, each with sums of its own,
// where panels alone would not give every thread work; groups are fixed, so results do not depend on the
// number of threads.
void parameter_gradients(const cpu::DenseWeightGradient& args, const Panels& panels, const Tensor& code,
                         std::vector<Panels>& group_sums, float* dots) {
  const int64_t batch = code.size(0), shots = panels.shots();
  const int64_t groups = std::min<int64_t>(batch, panels.count() >= 4 ? 1 : 4);
  const float* codes = static_cast<const float*>(code.data_ptr());
  for (int64_t group = 0; group < groups && dots != nullptr; ++group) group_sums.push_back(panels.zeros());
  torch::stable::parallel_for(0, panels.count() * groups, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer<float> gradient(panels.size());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / groups, group = task % groups;
      float* sums = group_sums[static_cast<size_t>(group)].of(panel);
      for (int64_t n = group * batch / groups; n < (group + 1) * batch / groups; ++n) {
        std::fill(gradient.data(), gradient.data() + panels.size(), 0.0f);
        const int64_t places = args.plan->places();
        KSHOT_CALL(dense_weight_gradient, args, {gradient.data(), 0, panels.width(), panel, panel + 1},
                   n * places, (n + 1) * places);
        KSHOT_CALL(contract_panel, gradient.data(), panels.of(panel), panels.size(), codes + n * shots, shots,
                   panels.size(), dots + (panel * batch + n) * shots, sums);
      }
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> per_sample_conv2d_backward(
    const Tensor& grad,    // [N, C_out', H', W']
    const Tensor& input,   // [N, C_in', H, W]
    const Tensor& weight,  // [K, C_out, C_in, KH, KW]
    const Tensor& code,    // [N, K]
    std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation, bool need_input,
    bool need_parameters) {
  const Tensor x = as_channels_last(input), g = as_channels_last(grad),
               codes = torch::stable::contiguous(code);
  const ConvGeometry geometry =
      conv_geometry(x, g.size(1), {weight.size(3), weight.size(4)}, stride, padding, dilation);
  check_code(codes, geometry.batch, weight.size(0));
  const Dictionary dictionary(weight);
  const auto copies = copies_of(dictionary, geometry.out_channels, geometry.in_channels);
  const Panels panels(copies, Panels::Side::kInput);
  const float* grad_data = static_cast<const float*>(g.data_ptr());

  Tensor grad_input = none_like(x), grad_weight = none_like(x), grad_code = none_like(x);
  if (need_input) {
    grad_input = new_channels_last(x, geometry.in_channels, geometry.height.input, geometry.width.input);
    const cpu::GatherPlan plan = transposed_plan(geometry);
    const cpu::DenseGather args{&plan,
                                geometry.out_channels,
                                geometry.in_channels,
                                grad_data,
                                static_cast<float*>(grad_input.data_ptr()),
                                false};
    for_each_mixed_panel(panels, codes, [&](int64_t panel, int64_t n, const float* mixed) {
      KSHOT_CALL(dense_gather, args, {mixed, 0, panels.width(), panel, panel + 1}, nullptr, n * plan.places(),
                 (n + 1) * plan.places());
    });
  }
  if (!need_parameters) return {grad_input, grad_weight, grad_code};

  const int64_t batch = geometry.batch, shots = panels.shots();
  const cpu::GatherPlan plan = forward_plan(geometry);
  const cpu::DenseWeightGradient args{&plan, geometry.in_channels, geometry.out_channels,
                                      static_cast<const float*>(x.data_ptr()), grad_data};
  const Sizes dot_sizes{panels.count(), batch, shots};
  Tensor dots = empty_strided(dot_sizes, contiguous_strides(dot_sizes), x.scalar_type(), x);
  grad_weight = empty_strided(dictionary.sizes(), dictionary.strides(), weight.scalar_type(), weight);
  if (batch == 0 || geometry.out_channels != weight.size(1) || geometry.in_channels != weight.size(2)) {
    torch::stable::zero_(grad_weight);
  }
  std::vector<Panels> group_sums;
  if (batch > 0) {
    parameter_gradients(args, panels, codes, group_sums, static_cast<float*>(dots.data_ptr()));
    Panels& total = group_sums[0];
    const int64_t elements = total.shots() * total.size();
    for (size_t group = 1; group < group_sums.size(); ++group) {
      parallel_tasks(total.count(), [&](int64_t panel) {
        float* into = total.of(panel);
        const float* from = group_sums[group].of(panel);
        for (int64_t e = 0; e < elements; ++e) into[e] += from[e];
      });
    }
    std::vector<float*> targets;
    for (int64_t k = 0; k < shots; ++k) {
      targets.push_back(static_cast<float*>(grad_weight.data_ptr()) + k * grad_weight.stride(0));
    }
    total.unpack_into(copies, targets);
  }
  const int64_t over[] = {0};
  return {grad_input, grad_weight, torch::stable::sum(dots, over)};
}

}  // namespace
}  // namespace kshot

STABLE_TORCH_LIBRARY_FRAGMENT(kshot_ext, m) {
  m.def(
      "per_sample_conv2d(Tensor input, Tensor weight, Tensor code, Tensor? bias, SymInt out_channels, int[] "
      "stride, "
      "int[] padding, int[] dilation) -> Tensor");
  m.def(
      "per_sample_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor code, int[] stride, int[] "
      "padding, "
      "int[] dilation, bool need_input, bool need_parameters) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(kshot_ext, CPU, m) {
  m.impl("per_sample_conv2d", TORCH_BOX(&kshot::per_sample_conv2d));
  m.impl("per_sample_conv2d_backward", TORCH_BOX(&kshot::per_sample_conv2d_backward));
}
