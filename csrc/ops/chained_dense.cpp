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

// Rows of the largest of the strips' row ranges.
template <class Range>
int64_t most_rows(const ChainStrips& strips, const Range& range) {
  int64_t most = 0;
  for (int64_t i = 0; i < strips.count(); ++i) most = std::max(most, range(strips[i]).size());
  return most;
}

// Elements of float from one address to another, which need not lie in one array.
int64_t distance(const float* from, const float* to) {
  return (reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from)) /
         static_cast<int64_t>(sizeof(float));
}

// The rows of a tensor of float that strips of one column read one after the other: those behind row `end`
// are asked for while the strip before is multiplied. Other strips, whose rows overlap, and half types come
// by themselves.
struct NextRows {
  const float* data = nullptr;
  int64_t size = 0;

  NextRows(const void* tensor, DType dtype, const ConvAxis& width, int64_t row, int64_t end, int64_t rows,
           int64_t count) {
    if (!tensor || dtype != DType::kFloat32 || width.input != 1 || end >= rows) return;
    data = static_cast<const float*>(tensor) + end * row;
    size = std::min(count, rows - end) * row;
  }
};

}  // namespace

void chained_dense_forward(const ChainOperand& input, const Tensor& weight, const ConvGeometry& geometry,
                           const Tensor& output, float* mean, float* variance, const OutputMap& map) {
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
      const int64_t read = n * g.height.input + strip.read.begin, read_end = read + strip.read.size();
      const int64_t first = n * g.height.output + strip.outputs.begin, end = first + strip.outputs.size();
      float* target = direct ? static_cast<float*>(result.data) + first * out_row : made.data();
      cpu::DenseGather gather{&plan,          g.in_channels,
                              g.out_channels, {nullptr, g.in_channels},
                              target,         direct && result.past_caches};
      gather.activation = map.activation;
      if (input.as_is()) {
        gather.source.data = static_cast<const float*>(input.args().data) + read * in_row;
      } else {
        KSHOT_CALL(chain_load, input.args(), n, read * g.width.input, read_end * g.width.input,
                   mapped.data());
        gather.source.data = mapped.data();
        const NextRows next(input.args().data, input.args().dtype, g.width, in_row, read_end,
                            g.batch * g.height.input, strip.read.size());
        if (next.data) gather.ahead = distance(gather.source.data, next.data);
      }
      KSHOT_CALL(dense_gather, gather, panels.range(0, panels.count()), map.bias, 0, plan.places());
      if (direct) return;
      KSHOT_CALL(chain_store, result, first * g.width.output, end * g.width.output, target,
                 mean ? moments.of(group) : nullptr, mean ? moments.count(group) : 0);
      if (mean) moments.count(group) += (end - first) * g.width.output;
    });
  });
  if (mean) moments.join(mean, variance);
}

namespace {

// The backward pass of a dense link.
class DenseBackward {
 public:
  DenseBackward(const ChainOperand& input, const ChainOutputGradient& gradient, const Tensor& weight,
                const ConvGeometry& geometry, const Tensor& grad_input, bool need_weight)
      : input_(input),
        gradient_(gradient),
        weight_(with_kernel_in_line(weight)),
        view_(weight_view(weight_, geometry.out_channels, geometry.in_channels)),
        tasks_(geometry, input.per_sample(), true, need_weight ? most_groups(view_) : kGroups),
        panels_({view_}, Panels::Side::kInput),
        sums_(input, tasks_.groups()),
        need_input_(grad_input.numel() > 0),
        by_output_(geometry.out_channels > geometry.in_channels) {
    if (need_input_) result_ = chain_result(grad_input);
    const int64_t groups = need_weight ? std::max<int64_t>(tasks_.groups(), 1) : 0;
    for (int64_t group = 0; group < groups; ++group) {
      weights_.push_back(Panels::zeros(view_, by_output_ ? Panels::Side::kOutput : Panels::Side::kInput));
    }
  }

  ChainedGradients run() {
    parallel_tasks(tasks_.groups(), [&](int64_t group) { run_group(group); });
    ChainedGradients gradients{none_like(weight_), input_.has_norm() ? sums_.joined() : none_like(weight_)};
    if (weights_.empty()) return gradients;
    parallel_tasks(weights_.size() > 1 ? weights_[0].count() : 0, [&](int64_t panel) {
      for (size_t group = 1; group < weights_.size(); ++group) {
        KSHOT_CALL(add_panels, weights_[0].of(panel), weights_[group].of(panel), weights_[0].size());
      }
    });
    gradients.weight = new_packed_like(weight_);
    weights_[0].unpack_into(weight_view(gradients.weight, view_.out_channels, view_.in_channels),
                            floats_of(gradients.weight));
    return gradients;
  }

 private:
  static constexpr int64_t kGroups = 16;

  // Groups that have a gradient of the weight each.
  static int64_t most_groups(const cpu::WeightView& view) {
    constexpr int64_t kSums = 1 << 19;  // elements of all of them
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t elements = view.taps * view.in_channels * view.out_channels;
    return std::max(threads, std::min(kGroups, kSums / elements) / threads * threads);  // as many for each
  }

  const ConvGeometry& geometry() const { return tasks_.geometry(); }
  int64_t in_row() const { return geometry().width.input * geometry().in_channels; }
  int64_t out_row() const { return geometry().width.output * geometry().out_channels; }

  void run_group(int64_t group) {
    const ChainStrips& strips = tasks_.strips();
    const bool direct = input_.as_is();
    const auto read = [](const ChainStrip& strip) { return strip.read; };
    const auto inputs = [](const ChainStrip& strip) { return strip.inputs; };
    const auto fed = [](const ChainStrip& strip) { return strip.fed; };
    AlignedBuffer<float> mapped(direct ? 0 : most_rows(strips, read) * in_row()),
        made(direct ? 0 : most_rows(strips, inputs) * in_row()),
        grads(gradient_.as_is() ? 0 : most_rows(strips, fed) * out_row());
    tasks_.each(group, [&](int64_t n, const ChainStrip& strip) {
      const float* grad = load_gradient(n, strip, grads.data());
      if (!weights_.empty()) add_to_weight(group, n, strip, grad, mapped.data());
      if (need_input_) make_input_gradient(group, n, strip, grad, made.data());
    });
  }

  // The rows that the strip's inputs feed.
  const float* load_gradient(int64_t n, const ChainStrip& strip, float* buffer) const {
    const cpu::ChainGradient& args = gradient_.args();
    const int64_t first = n * geometry().height.output + strip.fed.begin, width = geometry().width.output;
    if (gradient_.as_is()) return static_cast<const float*>(args.grad) + first * out_row();
    KSHOT_CALL(chain_load_gradient, args, first * width, (first + strip.fed.size()) * width, buffer);
    return buffer;
  }

  void add_to_weight(int64_t group, int64_t n, const ChainStrip& strip, const float* grad, float* mapped) {
    const ConvGeometry& g = geometry();
    const cpu::ChainInput& raw = input_.args();
    const int64_t first = n * g.height.input + strip.read.begin, end = first + strip.read.size();
    const float* source = mapped;
    if (input_.as_is()) {
      source = static_cast<const float*>(raw.data) + first * in_row();
    } else {
      KSHOT_CALL(chain_load, raw, n, first * g.width.input, end * g.width.input, mapped);
    }
    Panels& target = weights_[static_cast<size_t>(group)];
    cpu::DenseWeightGradient args{
        &tasks_.strips().plan(strip.forward),
        g.in_channels,
        g.out_channels,
        {source, g.in_channels},
        {grad + (strip.outputs.begin - strip.fed.begin) * out_row(), g.out_channels},
        by_output_,
        0,
        by_output_ ? g.in_channels : g.out_channels};
    const cpu::ChainGradient& own = gradient_.args();
    const int64_t out_end = n * g.height.output + strip.fed.end;
    const NextRows next[] = {
        {raw.data, raw.dtype, g.width, in_row(), end, g.batch * g.height.input, strip.read.size()},
        {own.output, own.dtype, g.width, out_row(), out_end, g.batch * g.height.output, strip.fed.size()}};
    for (int i = 0; i < 2; ++i) {
      args.next[i] = next[i].data;
      args.next_size[i] = next[i].size;
    }
    KSHOT_CALL(dense_weight_gradient, args, target.range(0, target.count()), 0, args.plan->places());
  }

  void make_input_gradient(int64_t group, int64_t n, const ChainStrip& strip, const float* grad,
                           float* made) {
    const ConvGeometry& g = geometry();
    const bool direct = input_.as_is();
    const int64_t first = n * g.height.input + strip.inputs.begin, end = first + strip.inputs.size();
    const GatherPlan& plan = tasks_.strips().plan(strip.transposed);
    float* target = direct ? static_cast<float*>(result_.data) + first * in_row() : made;
    cpu::DenseGather gather{
        &plan, g.out_channels, g.in_channels, {grad, g.out_channels}, target, direct && result_.past_caches};
    const cpu::ChainGradient& own = gradient_.args();
    const NextRows next(gradient_.as_is() ? nullptr : own.grad, own.dtype, g.width, out_row(),
                        n * g.height.output + strip.fed.end, g.batch * g.height.output, strip.fed.size());
    if (next.data) gather.ahead = distance(grad, next.data);
    KSHOT_CALL(dense_gather, gather, panels_.range(0, panels_.count()), nullptr, 0, plan.places());
    if (direct) return;
    KSHOT_CALL(chain_store_gradient, input_.args(), result_, n, first * g.width.input, end * g.width.input,
               made, input_.has_norm() ? sums_.of(group) + n * sums_.stride() : nullptr);
  }

  const ChainOperand& input_;
  const ChainOutputGradient& gradient_;
  Tensor weight_;
  cpu::WeightView view_;
  StripTasks tasks_;
  const Panels panels_;
  GroupSums sums_;
  bool need_input_, by_output_;
  cpu::ChainResult result_{};
  std::vector<Panels> weights_;  // gradients, group by group
};

}  // namespace

ChainedGradients chained_dense_backward(const ChainOperand& input, const ChainOutputGradient& gradient,
                                        const Tensor& weight, const ConvGeometry& geometry,
                                        const Tensor& grad_input, bool need_weight) {
  return DenseBackward(input, gradient, weight, geometry, grad_input, need_weight).run();
}

}  // namespace kshot
