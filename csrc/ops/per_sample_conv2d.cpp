// Panels are taken in groups whose K copies stay in L2 while the samples go by, a few at a time, so that
// copies are read once for all of these: the dictionary is read from memory once and no sample's weight is
// ever stored whole. The gradient of the dictionary goes the same way back, block of rows by block of rows.
#include "ops/per_sample_conv2d.h"

#include <tuple>

#include "ops/dense_panels.h"
#include "ops/place_codes.h"
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

// How the gather is cut: groups of panels and blocks of source channels whose K copies and mixtures stay in
// L2 while the samples go by.
struct MixedBlocks {
  MixedBlocks(const cpu::DenseGather& args, int64_t panel_width, int64_t shots) {
    constexpr int64_t kElements = 1 << 17, kLeastChannels = 32;  // 512 KB
    const int64_t taps = args.plan->taps, sources = args.source_channels;
    const int64_t panels = (args.target_channels + panel_width - 1) / panel_width;
    const int64_t fit = kElements / ((shots + kSamples) * taps * panel_width);
    const int64_t blocks = (sources - 1) / std::max(fit, kLeastChannels) + 1;
    channels = (sources + blocks - 1) / blocks;
    groups = (panels - 1) / std::max<int64_t>(fit / channels, 1) + 1;
    group_size = (panels + groups - 1) / groups;
    groups = (panels + group_size - 1) / group_size;
    size = taps * channels * panel_width;
  }

  int64_t channels, group_size, groups;
  int64_t size;  // of a panel of a block
};

// Gathers all samples through their own mixed panels. rows_of(panel, t, r, rows) are rows [r, r + rows) of
// tap t in a panel of the copies.
template <class RowsOf>
void gather_mixed(const cpu::DenseGather& args, int64_t panel_width, const Tensor& code, const float* biases,
                  const RowsOf& rows_of) {
  const CodesOfPlaces codes(code);
  const int64_t batch = codes.samples, places = args.plan->places();
  const int64_t panels = (args.target_channels + panel_width - 1) / panel_width;
  const MixedBlocks blocks(args, panel_width, codes.shots);

  // Samples [begin, end) through source channels [r, r + rows) of panels [first, last).
  const auto gather = [&](float* mixed, int64_t first, int64_t last, int64_t r, int64_t begin, int64_t end) {
    cpu::DenseGather block = args;
    block.source.data += r;
    block.source_channels = std::min(blocks.channels, args.source_channels - r);
    block.accumulate = r > 0;
    block.past_caches = args.past_caches && blocks.channels == args.source_channels;
    const int64_t mixture = blocks.group_size * blocks.size;
    for (int64_t n = begin; n < end; n += kSamples) {
      const int64_t samples = std::min(kSamples, end - n);
      for (int64_t panel = first; panel < last; ++panel) {
        float* target = mixed + (panel - first) * blocks.size;
        for (int64_t t = 0; t < args.plan->taps; ++t, target += block.source_channels * panel_width) {
          KSHOT_CALL(mix_rows, rows_of(panel, t, r, block.source_channels), codes.at(t, n), samples,
                     panel_width, target, mixture);
        }
      }
      for (int64_t i = 0; i < samples; ++i) {
        const cpu::PanelRange<const float*> range{mixed + i * mixture, blocks.size, panel_width, first, last};
        const float* bias = biases && r == 0 ? biases + (n + i) * args.target_channels : nullptr;
        KSHOT_CALL(dense_gather, block, range, bias, (n + i) * places, (n + i + 1) * places);
      }
    }
  };
  const int64_t batches = (batch + kSamples - 1) / kSamples;
  torch::stable::parallel_for(0, blocks.groups * batches, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer<float> mixed(kSamples * blocks.group_size * blocks.size);
    while (begin < end) {
      const int64_t group = begin / batches, stop = std::min(end, (group + 1) * batches);
      const int64_t first = group * blocks.group_size, last = std::min(first + blocks.group_size, panels);
      for (int64_t r = 0; r < args.source_channels; r += blocks.channels) {
        gather(mixed.data(), first, last, r, (begin - group * batches) * kSamples,
               std::min((stop - group * batches) * kSamples, batch));
      }
      begin = stop;
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

  cpu::WeightView view;
  int64_t copy_stride, shots, width = 0, count = 0;
};

// How the work on the dictionary's gradient is cut: into blocks of rows of a panel, and where the dictionary
// is small also into groups of samples with sums of their own. Neither depends on the number of threads.
struct GradientTasks {
  GradientTasks(const InputPanels& panels, int64_t batch) {
    // Of copies, sums and gradients of a block; least tasks; least rows, as lanes are packed for each block.
    constexpr int64_t kElements = 1 << 17, kTasks = 8, kLeastRows = 48;
    constexpr int64_t kSmall = 1 << 17, kMostGroups = 8;
    const cpu::WeightView& view = panels.view;
    const bool small = panels.shots * view.taps * view.in_channels * view.out_channels <= kSmall;
    groups = small ? std::clamp<int64_t>(batch / kSamples, 1, kMostGroups) : 1;
    const int64_t fit = kElements / ((2 * panels.shots + kSamples) * view.taps * panels.width);
    const int64_t even = std::max(view.out_channels * panels.count * groups / kTasks, kLeastRows);
    rows = std::clamp<int64_t>(std::min(std::max(fit, kLeastRows), even) / 12 * 12,
                               std::min<int64_t>(12, view.out_channels), view.out_channels);
    blocks = (view.out_channels + rows - 1) / rows;
    count = panels.count * blocks * groups;
  }

  int64_t groups, rows, blocks, count;
};

// Gradients of the dictionary, in groups [groups, K, C_out, C_in, KH, KW], and of the codes, shaped like
// `code`.
std::tuple<Tensor, Tensor> parameter_gradients(const cpu::DenseWeightGradient& args,
                                               const InputPanels& panels, const Tensor& dictionary,
                                               const Tensor& code) {
  const CodesOfPlaces codes(code);
  const int64_t batch = codes.samples, shots = panels.shots, places = args.plan->places(),
                taps = args.plan->taps;
  const GradientTasks tasks(panels, batch);
  Sizes sizes = sizes_of(dictionary), strides = strides_of(dictionary);
  sizes.insert(sizes.begin(), tasks.groups);
  strides.insert(strides.begin(), shots * panels.copy_stride);
  Tensor sums = empty_strided(sizes, strides, code.scalar_type(), code);
  const int64_t code_size = product(sizes_of(code));
  Sizes dot_sizes = sizes_of(code);
  dot_sizes.insert(dot_sizes.begin(), panels.count * tasks.blocks);
  Tensor dots = empty_strided(dot_sizes, contiguous_strides(dot_sizes), code.scalar_type(), code);
  torch::stable::zero_(sums);
  torch::stable::zero_(dots);
  parallel_tasks(tasks.count, [&](int64_t task) {
    const int64_t group = task / (tasks.blocks * panels.count), part = task % (tasks.blocks * panels.count);
    const int64_t panel = part / tasks.blocks, row = part % tasks.blocks * tasks.rows;
    const int64_t rows = std::min(tasks.rows, args.out_channels - row);
    const int64_t first = group * batch / tasks.groups, last = (group + 1) * batch / tasks.groups;
    float* group_sums = static_cast<float*>(sums.data_ptr()) + group * shots * panels.copy_stride;
    float* part_dots = static_cast<float*>(dots.data_ptr()) + part * code_size;
    cpu::DenseWeightGradient block = args;
    block.row_begin = row;
    block.row_end = row + rows;
    block.overwrite = true;
    const int64_t block_size = taps * rows * panels.width;
    AlignedBuffer<float> gradients(kSamples * block_size);
    for (int64_t n = first; n < last; n += kSamples) {
      const int64_t samples = std::min(kSamples, last - n);
      for (int64_t i = 0; i < samples; ++i) {
        const cpu::PanelRange<float*> gradient{gradients.data() + i * block_size, 0, panels.width, panel,
                                               panel + 1};
        KSHOT_CALL(dense_weight_gradient, block, gradient, (n + i) * places, (n + i + 1) * places);
      }
      for (int64_t t = 0; t < taps; ++t) {
        KSHOT_CALL(contract_rows,
                   {panels.rows_of(panel, t, row, rows), gradients.data() + t * rows * panels.width,
                    block_size, panels.width, samples, codes.at(t, n), part_dots + codes.offset(t, n),
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
  gather_mixed(args, panels.width(), code, bias ? static_cast<const float*>(bias->data_ptr()) : nullptr,
               [&](int64_t panel, int64_t t, int64_t i, int64_t rows) {
                 const float* data = panels.of(panel) + (t * geometry.in_channels + i) * panels.width();
                 return cpu::CopyRows{data,           panels.size(), panels.width(),
                                      panels.shots(), rows,          panels.width()};
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
                 panels.width, code, nullptr, [&](int64_t panel, int64_t t, int64_t o, int64_t rows) {
                   return panels.rows_of(panel, t, o, rows);
                 });
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
