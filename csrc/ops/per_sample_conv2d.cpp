// Panels are taken in groups whose K copies stay in L2 while the samples go by, a few at a time, so that
// copies are read once for all of these: the dictionary is read from memory once and no sample's weight is
// ever stored whole. The gradient of the dictionary goes the same way back, block of rows by block of rows.
#include "ops/per_sample_conv2d.h"

#include <array>
#include <tuple>

#include "ops/dense_panels.h"
#include "ops/stacked_linear.h"
#include "ops/sum_of_parts.h"

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

constexpr int64_t kSamples = 4;  // at a time

// Gathers all samples through their own mixed panels, each of `panel_rows` rows. copies_of(panel) are the
// rows of the copies that make a panel, in pieces of equal size one after the other.
template <class CopiesOf>
void gather_mixed(const cpu::DenseGather& args, int64_t panel_width, int64_t panel_rows, const Tensor& code,
                  const float* biases, const CopiesOf& copies_of) {
  constexpr int64_t kElements = 1 << 18;  // of K copies and the mixtures: 1 MB
  const int64_t batch = code.size(0), shots = code.size(1), places = args.plan->places();
  const int64_t panels = (args.target_channels + panel_width - 1) / panel_width,
                size = panel_rows * panel_width;
  const int64_t group_size = std::clamp<int64_t>(kElements / ((shots + kSamples) * size), 1, panels);
  const int64_t groups = (panels + group_size - 1) / group_size, batches = (batch + kSamples - 1) / kSamples;
  const float* codes = static_cast<const float*>(code.data_ptr());
  torch::stable::parallel_for(0, groups * batches, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer<float> mixed(kSamples * group_size * size);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task % batches * kSamples, samples = std::min(kSamples, batch - n);
      const int64_t first = task / batches * group_size, last = std::min(first + group_size, panels);
      for (int64_t panel = first; panel < last; ++panel) {
        float* target = mixed.data() + (panel - first) * size;
        for (const cpu::CopyRows& copies : copies_of(panel)) {
          KSHOT_CALL(mix_rows, copies, codes + n * shots, samples, panel_width, target, group_size * size);
          target += copies.rows * panel_width;
        }
      }
      for (int64_t i = 0; i < samples; ++i) {
        const cpu::PanelRange<const float*> range{mixed.data() + i * group_size * size, size, panel_width,
                                                  first, last};
        KSHOT_CALL(dense_gather, args, range, biases ? biases + (n + i) * args.target_channels : nullptr,
                   (n + i) * places, (n + i + 1) * places);
      }
    }
  });
}

// Panels by input channel of a dictionary whose input channels lie innermost.
struct InputPanels {
  InputPanels(const Tensor& dictionary, int64_t out_channels, int64_t in_channels)
      : view(weight_view(torch::stable::select(dictionary, 0, 0), out_channels, in_channels)),
        copy_stride(dictionary.stride(0)),
        shots(dictionary.size(0)) {
    KSHOT_CALL(choose_panel_width, in_channels, width);
    count = (in_channels + width - 1) / width;
  }

  // Offset of tap t and output channel o in a panel, and that part of the copies: `rows` output channels.
  int64_t offset(int64_t panel, int64_t t, int64_t o) const {
    return o * view.out_stride + t * view.tap_stride + panel * width;
  }
  cpu::CopyRows rows_of(int64_t panel, int64_t t, int64_t o, int64_t rows) const {
    return {view.data + offset(panel, t, o),
            copy_stride,
            view.out_stride,
            shots,
            rows,
            std::min(width, view.in_channels - panel * width)};
  }
  // All rows of a panel, tap by tap.
  std::vector<cpu::CopyRows> all(int64_t panel) const {
    std::vector<cpu::CopyRows> rows;
    for (int64_t t = 0; t < view.taps; ++t) rows.push_back(rows_of(panel, t, 0, view.out_channels));
    return rows;
  }

  cpu::WeightView view;
  int64_t copy_stride, shots, width = 0, count = 0;
};

// How the work on the dictionary's gradient is cut: into blocks of rows of a panel, and where the dictionary
// is small also into groups of samples with sums of their own. Neither depends on the number of threads.
struct GradientTasks {
  GradientTasks(const InputPanels& panels, int64_t batch) {
    constexpr int64_t kElements = 1 << 17,
                      kTasks = 16;  // of copies, sums and gradients of a block; least tasks
    constexpr int64_t kSmall = 1 << 17, kMostGroups = 8;
    const cpu::WeightView& view = panels.view;
    const bool small = panels.shots * view.taps * view.in_channels * view.out_channels <= kSmall;
    groups = small ? std::clamp<int64_t>(batch / kSamples, 1, kMostGroups) : 1;
    const int64_t fit = kElements / ((2 * panels.shots + kSamples) * view.taps * panels.width);
    const int64_t even = view.out_channels * panels.count * groups / kTasks;
    rows = std::clamp<int64_t>(std::min(fit, even) / 12 * 12, std::min<int64_t>(12, view.out_channels),
                               view.out_channels);
    blocks = (view.out_channels + rows - 1) / rows;
    count = panels.count * blocks * groups;
  }

  int64_t groups, rows, blocks, count;
};

// Gradients of the dictionary, in groups [groups, K, C_out, C_in, KH, KW], and of the codes, [N, K].
std::tuple<Tensor, Tensor> parameter_gradients(const cpu::DenseWeightGradient& args,
                                               const InputPanels& panels, const Tensor& dictionary,
                                               const Tensor& code) {
  const int64_t batch = code.size(0), shots = panels.shots, places = args.plan->places(),
                taps = args.plan->taps;
  const GradientTasks tasks(panels, batch);
  Sizes sizes = sizes_of(dictionary), strides = strides_of(dictionary);
  sizes.insert(sizes.begin(), tasks.groups);
  strides.insert(strides.begin(), shots * panels.copy_stride);
  Tensor sums = empty_strided(sizes, strides, code.scalar_type(), code);
  const Sizes dot_sizes{panels.count * tasks.blocks, batch, shots};
  Tensor dots = empty_strided(dot_sizes, contiguous_strides(dot_sizes), code.scalar_type(), code);
  torch::stable::zero_(sums);
  torch::stable::zero_(dots);
  const float* codes = static_cast<const float*>(code.data_ptr());
  parallel_tasks(tasks.count, [&](int64_t task) {
    const int64_t group = task / (tasks.blocks * panels.count), part = task % (tasks.blocks * panels.count);
    const int64_t panel = part / tasks.blocks, row = part % tasks.blocks * tasks.rows;
    const int64_t rows = std::min(tasks.rows, args.out_channels - row);
    const int64_t first = group * batch / tasks.groups, last = (group + 1) * batch / tasks.groups;
    float* group_sums = static_cast<float*>(sums.data_ptr()) + group * shots * panels.copy_stride;
    float* part_dots = static_cast<float*>(dots.data_ptr()) + part * batch * shots;
    cpu::DenseWeightGradient block = args;
    block.row_begin = row;
    block.row_end = row + rows;
    const int64_t block_size = taps * rows * panels.width;
    AlignedBuffer<float> gradients(kSamples * block_size);
    for (int64_t n = first; n < last; n += kSamples) {
      const int64_t samples = std::min(kSamples, last - n);
      std::fill(gradients.data(), gradients.data() + samples * block_size, 0.0f);
      for (int64_t i = 0; i < samples; ++i) {
        const cpu::PanelRange<float*> gradient{gradients.data() + i * block_size, 0, panels.width, panel,
                                               panel + 1};
        KSHOT_CALL(dense_weight_gradient, block, gradient, (n + i) * places, (n + i + 1) * places);
      }
      for (int64_t t = 0; t < taps; ++t) {
        KSHOT_CALL(contract_rows,
                   {panels.rows_of(panel, t, row, rows), gradients.data() + t * rows * panels.width,
                    block_size, panels.width, samples, codes + n * shots, part_dots + n * shots,
                    group_sums + panels.offset(panel, t, row)});
      }
    }
  });
  const int64_t over[] = {0};
  return {tasks.groups > 1 ? torch::stable::sum(sums, over) : torch::stable::select(sums, 0, 0),
          sum_of_parts(dots, 0)};
}

// The dictionary with its input channels innermost.
Tensor innermost_of(const Dictionary& dictionary) {
  return laid_out_as(dictionary.tensor(), Dictionary::inner_channels_last(dictionary.sizes(), 2));
}

}  // namespace

Tensor per_sample_forward(const Tensor& input, const Dictionary& dictionary, const Tensor& code,
                          const std::optional<Tensor>& bias, const ConvGeometry& geometry) {
  if (is_one_row(geometry)) return stacked_forward(input, innermost_of(dictionary), code, bias, geometry);
  const int64_t out_channels = geometry.out_channels;
  Tensor output = new_channels_last(input, out_channels, geometry.height.output, geometry.width.output);
  const GatherPlan plan = forward_plan(geometry);
  const Panels panels(copies_of(dictionary, out_channels, geometry.in_channels), Panels::Side::kOutput);
  const cpu::DenseGather args{&plan,
                              geometry.in_channels,
                              out_channels,
                              pixels_of<float>(input),
                              static_cast<float*>(output.data_ptr()),
                              exceeds_caches(output)};
  const int64_t rows = panels.size() / panels.width();
  gather_mixed(args, panels.width(), rows, code, bias ? static_cast<const float*>(bias->data_ptr()) : nullptr,
               [&](int64_t panel) {
                 const cpu::CopyRows copies{panels.of(panel), panels.size(), panels.width(),
                                            panels.shots(),   rows,          panels.width()};
                 return std::array{copies};
               });
  return output;
}

PerSampleGradients per_sample_backward(const Tensor& grad, const Tensor& input, const Dictionary& dictionary,
                                       const Tensor& code, const ConvGeometry& geometry, bool need_input,
                                       bool need_parameters) {
  const Tensor innermost = innermost_of(dictionary);
  if (is_one_row(geometry)) {
    PerSampleGradients grads =
        stacked_backward(grad, input, innermost, code, geometry, need_input, need_parameters);
    if (need_parameters) grads.dictionary = laid_out_as(grads.dictionary, dictionary.strides());
    return grads;
  }
  const InputPanels panels(innermost, geometry.out_channels, geometry.in_channels);

  Tensor grad_input = none_like(input), grad_weight = none_like(input), grad_code = none_like(input);
  if (need_input) {
    grad_input = new_channels_last(input, geometry.in_channels, geometry.height.input, geometry.width.input);
    const GatherPlan plan = transposed_plan(geometry);
    gather_mixed({&plan, geometry.out_channels, geometry.in_channels, pixels_of<float>(grad),
                  static_cast<float*>(grad_input.data_ptr()), exceeds_caches(grad_input)},
                 panels.width, geometry.taps() * geometry.out_channels, code, nullptr,
                 [&](int64_t panel) { return panels.all(panel); });
  }
  if (need_parameters) {
    const GatherPlan plan = forward_plan(geometry);
    const cpu::DenseWeightGradient args{&plan,
                                        geometry.in_channels,
                                        geometry.out_channels,
                                        pixels_of<float>(input),
                                        pixels_of<float>(grad),
                                        false,
                                        0,
                                        geometry.out_channels};
    std::tie(grad_weight, grad_code) = parameter_gradients(args, panels, innermost, code);
    grad_weight = laid_out_as(grad_weight, dictionary.strides());
  }
  return {grad_input, grad_weight, grad_code};
}

}  // namespace kshot
