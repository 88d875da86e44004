// Strip by strip: the input is mapped into a buffer, multiplied into another one, and stored with its
// moments; backward, the output's gradient and the mapped input give the gradient of the weight, and the
// former that of the input, which is stored with its sums. Each tensor is read and written once, a row
// of a strip's halo twice.
#include "ops/chained_dense.h"

#include "ops/chain_strips.h"
#include "ops/dense_panels.h"

namespace kshot {
namespace {

// Strips of a batch, and how they are shared out in groups with moments and sums of their own.
class StripTasks {
 public:
  StripTasks(const ConvGeometry& geometry, bool per_sample, bool backward, int64_t most_groups)
      : geometry_(folded(geometry, per_sample)), strips_(geometry_, rows_of_strip(backward), backward) {
    const int64_t count = geometry_.batch * strips_.count();
    unit_ = per_sample ? strips_.count() : 1;  // a group has whole samples where sums are per sample
    groups_ = std::clamp<int64_t>(count / unit_, 0, most_groups);
    units_ = count / unit_;
  }

  const ConvGeometry& geometry() const { return geometry_; }
  const ChainStrips& strips() const { return strips_; }
  int64_t groups() const { return groups_; }

  // Runs body(group) on all threads, which calls each(group, body(sample, strip)).
  template <class Body>
  void each(int64_t group, const Body& body) const {
    for (int64_t i = group * units_ / groups_ * unit_; i < (group + 1) * units_ / groups_ * unit_; ++i) {
      body(i / strips_.count(), strips_[i % strips_.count()]);
    }
  }

 private:
  // A 1x1 convolution with stride one as one column of positions; of one sample, if samples differ.
  static ConvGeometry folded(const ConvGeometry& g, bool per_sample) {
    const bool plain = g.taps() == 1 && g.height.stride == 1 && g.width.stride == 1 &&
                       g.height.padding == 0 && g.width.padding == 0 && g.height.input == g.height.output &&
                       g.width.input == g.width.output;
    if (!plain) return g;
    const int64_t pixels = g.height.input * g.width.input, batch = per_sample ? g.batch : 1;
    const int64_t positions = per_sample ? pixels : g.batch * pixels;
    return {g.batch > 0 ? batch : 0,
            g.in_channels,
            g.out_channels,
            {positions, positions, 1, 1, 0, 1},
            {1, 1, 1, 1, 0, 1}};
  }

  // So many rows of the output that the buffers fit the second cache, but at least eight strips in all.
  int64_t rows_of_strip(bool backward) const {
    constexpr int64_t kElements = 1 << 16, kLeastStrips = 8;
    const int64_t kTile = backward ? 128 : 48;  // positions: the gradient of the weight is added to so often
    const ConvGeometry& g = geometry_;
    const int64_t inputs = g.height.stride * g.width.input * g.in_channels;
    const int64_t outputs = g.width.output * g.out_channels;
    int64_t rows = std::max<int64_t>(1, kElements / (inputs * (backward ? 2 : 1) + outputs));
    const int64_t share = (g.batch * g.height.output + kLeastStrips - 1) / kLeastStrips;
    const int64_t tile = (kTile + g.width.output - 1) / g.width.output;
    if (backward) rows = std::max(rows, tile);
    rows = std::min(rows, (std::max<int64_t>(share, 1) + tile - 1) / tile * tile);
    if (rows > tile) rows = rows / tile * tile;
    return std::clamp<int64_t>(rows, 1, std::max<int64_t>(g.height.output, 1));
  }

  ConvGeometry geometry_;
  ChainStrips strips_;
  int64_t unit_ = 1, units_ = 0, groups_ = 0;
};

Tensor with_kernel_in_line(const Tensor& weight) {
  return kernel_lies_in_order(weight) ? weight : as_contiguous(weight);
}

// Elements of the largest of the strips' row ranges.
template <class Range>
int64_t most_rows(const ChainStrips& strips, const Range& range) {
  int64_t most = 0;
  for (int64_t i = 0; i < strips.count(); ++i) most = std::max(most, range(strips[i]).size());
  return most;
}

}  // namespace

void chained_dense_forward(const ChainOperand& input, const Tensor& weight, const ConvGeometry& geometry,
                           const Tensor& output, float* mean, float* variance) {
  constexpr int64_t kGroups = 32;
  const StripTasks tasks(geometry, input.per_sample(), false, kGroups);
  const ConvGeometry& g = tasks.geometry();
  const ChainStrips& strips = tasks.strips();
  const Tensor w = with_kernel_in_line(weight);
  const Panels panels({weight_view(w, g.out_channels, g.in_channels)}, Panels::Side::kOutput);
  const cpu::ChainResult result = chain_result(output);
  const bool direct = !mean && result.dtype == DType::kFloat32;
  const int64_t in_row = g.width.input * g.in_channels, out_row = g.width.output * g.out_channels;
  const int64_t most_read = most_rows(strips, [](const ChainStrip& strip) { return strip.read; });
  const int64_t most_outputs = most_rows(strips, [](const ChainStrip& strip) { return strip.outputs; });
  GroupMoments moments(mean ? tasks.groups() : 0, g.out_channels);
  parallel_tasks(tasks.groups(), [&](int64_t group) {
    AlignedBuffer<float> mapped(input.as_is() ? 0 : most_read * in_row), made(most_outputs * out_row);
    tasks.each(group, [&](int64_t n, const ChainStrip& strip) {
      const GatherPlan& plan = strips.plan(strip.forward);
      const int64_t row = n * g.height.input, first = (n * g.height.output + strip.outputs.begin),
                    end = n * g.height.output + strip.outputs.end;
      const float* source = static_cast<const float*>(input.args().data) + (row + strip.read.begin) * in_row;
      if (!input.as_is()) {
        KSHOT_CALL(chain_load, input.args(), n, (row + strip.read.begin) * g.width.input,
                   (row + strip.read.end) * g.width.input, mapped.data());
        source = mapped.data();
      }
      float* target = direct ? static_cast<float*>(result.data) + first * out_row : made.data();
      const cpu::DenseGather gather{&plan,  g.in_channels, g.out_channels,
                                    source, target,        direct && result.past_caches};
      KSHOT_CALL(dense_gather, gather, panels.range(0, panels.count()), nullptr, 0, plan.places());
      if (direct) return;
      KSHOT_CALL(chain_store, result, first * g.width.output, end * g.width.output, target,
                 mean ? moments.of(group) : nullptr, mean ? moments.count(group) : 0);
      if (mean) moments.count(group) += (end - first) * g.width.output;
    });
  });
  if (mean) moments.join(mean, variance);
}

ChainedGradients chained_dense_backward(const ChainOperand& input, const ChainOutputGradient& gradient,
                                        const Tensor& weight, const ConvGeometry& geometry,
                                        const Tensor& grad_input, bool need_weight) {
  constexpr int64_t kGroups = 16, kSums = 1 << 20;  // elements of all groups' gradients of the weight
  const Tensor w = with_kernel_in_line(weight);
  const cpu::WeightView view = weight_view(w, geometry.out_channels, geometry.in_channels);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t elements = view.taps * view.in_channels * view.out_channels;
  const StripTasks tasks(
      geometry, input.per_sample(), true,
      need_weight ? std::clamp<int64_t>(kSums / elements, threads, std::max(kGroups, threads)) : kGroups);
  const ConvGeometry& g = tasks.geometry();
  const ChainStrips& strips = tasks.strips();
  const bool need_input = grad_input.numel() > 0, by_output = g.out_channels > g.in_channels;
  const Panels panels({view}, Panels::Side::kInput);
  std::vector<Panels> sums_of_weight;
  for (int64_t group = 0; need_weight && group < std::max<int64_t>(tasks.groups(), 1); ++group) {
    sums_of_weight.push_back(Panels::zeros(view, by_output ? Panels::Side::kOutput : Panels::Side::kInput));
  }
  const GroupSums sums(input, tasks.groups());
  const cpu::ChainResult result = need_input ? chain_result(grad_input) : cpu::ChainResult{};
  const bool direct = input.as_is();
  const int64_t in_row = g.width.input * g.in_channels, out_row = g.width.output * g.out_channels;
  const int64_t most_read = most_rows(strips, [](const ChainStrip& strip) { return strip.read; });
  const int64_t most_inputs = most_rows(strips, [](const ChainStrip& strip) { return strip.inputs; });
  const int64_t most_fed = most_rows(strips, [](const ChainStrip& strip) { return strip.fed; });
  parallel_tasks(tasks.groups(), [&](int64_t group) {
    AlignedBuffer<float> mapped(direct ? 0 : most_read * in_row), made(direct ? 0 : most_inputs * in_row),
        grads(gradient.as_is() ? 0 : most_fed * out_row);
    tasks.each(group, [&](int64_t n, const ChainStrip& strip) {
      const int64_t in_first = n * g.height.input, out_first = n * g.height.output;
      const float* grad =
          static_cast<const float*>(gradient.args().grad) + (out_first + strip.fed.begin) * out_row;
      if (!gradient.as_is()) {
        KSHOT_CALL(chain_load_gradient, gradient.args(), (out_first + strip.fed.begin) * g.width.output,
                   (out_first + strip.fed.end) * g.width.output, grads.data());
        grad = grads.data();
      }
      if (need_weight) {
        const float* source =
            static_cast<const float*>(input.args().data) + (in_first + strip.read.begin) * in_row;
        if (!direct) {
          KSHOT_CALL(chain_load, input.args(), n, (in_first + strip.read.begin) * g.width.input,
                     (in_first + strip.read.end) * g.width.input, mapped.data());
          source = mapped.data();
        }
        Panels& target = sums_of_weight[static_cast<size_t>(group)];
        const cpu::DenseWeightGradient args{&strips.plan(strip.forward),
                                            g.in_channels,
                                            g.out_channels,
                                            source,
                                            grad + (strip.outputs.begin - strip.fed.begin) * out_row,
                                            by_output,
                                            0,
                                            by_output ? g.in_channels : g.out_channels};
        KSHOT_CALL(dense_weight_gradient, args, target.range(0, target.count()), 0, args.plan->places());
      }
      if (!need_input) return;
      const int64_t first = in_first + strip.inputs.begin, end = in_first + strip.inputs.end;
      const GatherPlan& plan = strips.plan(strip.transposed);
      const cpu::DenseGather gather{&plan,
                                    g.out_channels,
                                    g.in_channels,
                                    grad,
                                    direct ? static_cast<float*>(result.data) + first * in_row : made.data(),
                                    direct && result.past_caches};
      KSHOT_CALL(dense_gather, gather, panels.range(0, panels.count()), nullptr, 0, plan.places());
      if (direct) return;
      KSHOT_CALL(chain_store_gradient, input.args(), result, n, first * g.width.input, end * g.width.input,
                 made.data(), input.has_norm() ? sums.of(group) + n * sums.stride() : nullptr);
    });
  });
  ChainedGradients gradients{none_like(w), input.has_norm() ? sums.joined() : none_like(w)};
  if (!need_weight) return gradients;
  parallel_tasks(sums_of_weight.size() > 1 ? sums_of_weight[0].count() : 0, [&](int64_t panel) {
    for (size_t group = 1; group < sums_of_weight.size(); ++group) {
      KSHOT_CALL(add_panels, sums_of_weight[0].of(panel), sums_of_weight[group].of(panel),
                 sums_of_weight[0].size());
    }
  });
  gradients.weight = empty_strided(sizes_of(w), strides_of(w), w.scalar_type(), w);
  sums_of_weight[0].unpack_into(view, floats_of(gradients.weight));
  return gradients;
}

}  // namespace kshot
