// Operator per_sample_conv2d and its backward: a dense convolution whose weight is mixed anew for every
// sample.
//
// Panels are taken in groups whose K copies stay in L2 while the samples go by, each mixing its own panels
// from them: the dictionary is read from memory once and no sample's weight is ever stored whole. The
// gradient of the dictionary goes the same way back, a few samples at a time, so that each copy and its sum
// are read once for all of them.
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

// Gathers all samples through their own mixed panels.
void gather_mixed(const cpu::DenseGather& args, const Panels& panels, const Tensor& code,
                  const float* biases) {
  constexpr int64_t kElements = 1 << 18;  // of K copies and a mixture: 1 MB
  const int64_t batch = code.size(0), shots = panels.shots(), places = args.plan->places();
  const int64_t group_size =
      std::clamp<int64_t>(kElements / ((shots + 1) * panels.size()), 1, panels.count());
  const int64_t groups = (panels.count() + group_size - 1) / group_size;
  const float* codes = static_cast<const float*>(code.data_ptr());
  torch::stable::parallel_for(0, groups * batch, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer<float> mixed(group_size * panels.size());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task % batch, first = task / batch * group_size,
                    last = std::min(first + group_size, panels.count());
      for (int64_t panel = first; panel < last; ++panel) {
        KSHOT_CALL(mix_panel, panels.of(panel), panels.size(), codes + n * shots, shots, panels.size(),
                   mixed.data() + (panel - first) * panels.size());
      }
      const cpu::PanelRange<const float*> range{mixed.data(), panels.size(), panels.width(), first, last};
      KSHOT_CALL(dense_gather, args, range, biases ? biases + n * args.target_channels : nullptr, n * places,
                 (n + 1) * places);
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
  gather_mixed(args, panels, codes, biases ? static_cast<const float*>(biases->data_ptr()) : nullptr);
  return output;
}

// Gradients of the dictionary, as panels, and of the codes, [panels, N, K] in `dots`. The samples are cut
// into groups, each with sums of its own, where panels alone would not give every thread work; groups are
// fixed, so results do not depend on the number of threads.
Panels parameter_gradients(cpu::DenseWeightGradient args, const cpu::WeightView& copy, const Panels& panels,
                           const Tensor& code, float* dots) {
  constexpr int64_t kSamples = 4,
                    kElements = 1 << 17;  // samples at a time; 512 KB of copies, sums, gradients
  const int64_t batch = code.size(0), shots = panels.shots(), places = args.plan->places();
  const int64_t taps = args.plan->taps, rows = panels.size() / (taps * panels.width());
  const int64_t fit = kElements / ((2 * shots + kSamples) * taps * panels.width());
  const int64_t block_rows = std::min(rows, std::max<int64_t>(fit / 24 * 24, 24));
  const int64_t groups = std::min<int64_t>(batch, panels.count() >= 4 ? 1 : 4);
  const float* codes = static_cast<const float*>(code.data_ptr());
  std::vector<Panels> group_sums;
  for (int64_t group = 0; group < groups; ++group)
    group_sums.push_back(Panels::zeros(copy, shots, panels.side()));
  parallel_tasks(panels.count() * groups, [&](int64_t task) {
    const int64_t panel = task / groups, group = task % groups;
    float* sums = group_sums[static_cast<size_t>(group)].of(panel);
    const int64_t first = group * batch / groups, last = (group + 1) * batch / groups;
    float* panel_dots = dots + panel * batch * shots;
    std::fill(panel_dots + first * shots, panel_dots + last * shots, 0.0f);
    const int64_t block_size = taps * block_rows * panels.width();
    AlignedBuffer<float> gradients(kSamples * block_size);
    for (int64_t row = 0; row < rows; row += block_rows) {
      const int64_t count = std::min(block_rows, rows - row);
      args.row_begin = row;
      args.row_end = row + count;
      for (int64_t n = first; n < last; n += kSamples) {
        const int64_t samples = std::min(kSamples, last - n);
        std::fill(gradients.data(), gradients.data() + samples * block_size, 0.0f);
        for (int64_t i = 0; i < samples; ++i) {
          const cpu::PanelRange<float*> gradient{gradients.data() + i * block_size, 0, panels.width(), panel,
                                                 panel + 1};
          KSHOT_CALL(dense_weight_gradient, args, gradient, (n + i) * places, (n + i + 1) * places);
        }
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t at = (t * rows + row) * panels.width();
          KSHOT_CALL(contract_panel, {gradients.data() + t * count * panels.width(), block_size, samples,
                                      panels.of(panel) + at, panels.size(), shots, count * panels.width(),
                                      codes + n * shots, panel_dots + n * shots, sums + at});
        }
      }
    }
  });
  Panels& total = group_sums[0];
  parallel_tasks(groups > 1 ? total.count() : 0, [&](int64_t panel) {
    for (size_t group = 1; group < group_sums.size(); ++group) {
      KSHOT_CALL(add_panels, total.of(panel), group_sums[group].of(panel), shots * total.size());
    }
  });
  return std::move(total);
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
  const Panels by_input(copies, Panels::Side::kInput);
  const float* grad_data = static_cast<const float*>(g.data_ptr());

  Tensor grad_input = none_like(x), grad_weight = none_like(x), grad_code = none_like(x);
  if (need_input) {
    grad_input = new_channels_last(x, geometry.in_channels, geometry.height.input, geometry.width.input);
    const cpu::GatherPlan plan = transposed_plan(geometry);
    gather_mixed({&plan, geometry.out_channels, geometry.in_channels, grad_data,
                  static_cast<float*>(grad_input.data_ptr()), exceeds_caches(grad_input)},
                 by_input, codes, nullptr);
  }
  if (!need_parameters) return {grad_input, grad_weight, grad_code};

  const int64_t batch = geometry.batch, shots = weight.size(0);
  const cpu::GatherPlan plan = forward_plan(geometry);
  const bool by_output =
      geometry.out_channels > geometry.in_channels;  // the wider side makes the fuller lanes
  const cpu::DenseWeightGradient args{&plan,
                                      geometry.in_channels,
                                      geometry.out_channels,
                                      static_cast<const float*>(x.data_ptr()),
                                      grad_data,
                                      by_output,
                                      0,
                                      by_output ? geometry.in_channels : geometry.out_channels};
  std::optional<Panels> packed_by_output;
  if (by_output) packed_by_output.emplace(copies, Panels::Side::kOutput);
  const Panels& panels = by_output ? *packed_by_output : by_input;
  const Sizes dot_sizes{panels.count(), batch, shots};
  Tensor dots = empty_strided(dot_sizes, contiguous_strides(dot_sizes), x.scalar_type(), x);
  grad_weight = empty_strided(dictionary.sizes(), dictionary.strides(), weight.scalar_type(), weight);
  if (batch == 0 || geometry.out_channels != weight.size(1) || geometry.in_channels != weight.size(2)) {
    torch::stable::zero_(grad_weight);
  }
  if (batch > 0) {
    const Panels sums =
        parameter_gradients(args, copies[0], panels, codes, static_cast<float*>(dots.data_ptr()));
    std::vector<float*> targets;
    for (int64_t k = 0; k < shots; ++k) {
      targets.push_back(static_cast<float*>(grad_weight.data_ptr()) + k * grad_weight.stride(0));
    }
    sums.unpack_into(copies, targets);
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
