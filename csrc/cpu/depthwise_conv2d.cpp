// Depthwise convolution, channels_last:
//
//     output[n, y, x, c] = activation(bias[c] + sum_taps input[n, y', x', c] * weight[tap, c])
//
// and the same sum with transposed taps for the gradient of the input; the gradient of the weight sums
// products over positions. Channels are the lanes; a task owns some samples and a range of channels, and goes
// down the rows: those that a target row reads are in L2 when the next one reads them again, and the lines of
// the row after them are asked for meanwhile. A target row is made in tiles (depthwise_tiles.h) from source
// rows (depthwise_rows.h).
//
// The backward pass makes both gradients row by row side by side, so that what one has brought to the caches
// serves the other. Large images are bound by memory: with a kernel of up to 5x5 the multiply-adds take less
// time than the traffic from main memory.
#include "cpu/depthwise_conv2d.h"

#include <algorithm>
#include <optional>
#include <type_traits>

#include "common/aligned_buffer.h"
#include "cpu/activation_values.h"
#include "cpu/depthwise_rows.h"
#include "cpu/depthwise_tiles.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// Makes target rows of a gather over a range of channels, sample by sample.
template <class T>
class GatherPass {
 public:
  using C = Sum<T>;

  GatherPass(const DepthwiseGather& args, const ChannelRange<T>& range)
      : args_(args),
        range_(range),
        taps_(args.kernel_height * args.kernel_width),
        source_(args.source, args.source_width, range, args.rows->span()),
        lines_{{}, args.source_width, source_.column_stride()},
        weights_(taps_ * range.width),
        start_(range.width),
        bounds_(args.activation),
        in_place_(std::is_same_v<T, C> && (bounds_.any || args.activation == Activation::kIdentity)),
        finished_(in_place_ ? 0 : args.target_width * range.width) {
    std::fill(weights_.data(), weights_.data() + taps_ * range.width, C(0));
    std::fill(start_.data(), start_.data() + range.width, C(0));
    past_caches_ = args.past_caches && can_pass_caches(static_cast<const T*>(args.target), args.channels);
  }
  ~GatherPass() {
    if (past_caches_) finish_stores();
  }

  void start(int64_t n) {
    const int64_t channels = args_.channels;
    source_.start(n * args_.source_height * args_.source_width);
    target_ = static_cast<T*>(args_.target) + n * args_.target_height * args_.target_width * channels +
              range_.begin;
    if (!has_weights_ || args_.weight_stride) {
      const T* weight = static_cast<const T*>(args_.weight) + n * args_.weight_stride + range_.begin;
      for (int64_t t = 0; t < taps_; ++t)
        range_.widen(weights_.data() + t * range_.width, weight + t * channels);
    }
    if (args_.bias && (!has_weights_ || args_.bias_stride)) {
      range_.widen(start_.data(), static_cast<const T*>(args_.bias) + n * args_.bias_stride + range_.begin);
    }
    has_weights_ = true;
  }

  void rows(int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) row(y);
  }

 private:
  void row(int64_t y) {
    const int64_t width = range_.width;
    lines_.each.clear();
    for (const AxisTap& tap : args_.rows->of(y)) {
      lines_.each.push_back(
          {source_.row(tap.source), weights_.data() + tap.tap * args_.kernel_width * width});
    }
    T* line = target_ + y * args_.target_width * args_.channels;
    TargetRow<C> target{finished_.data(), width, width, false};
    if constexpr (std::is_same_v<T, C>) {
      if (in_place_) target = {line, args_.channels, range_.count, past_caches_, bounds_};
    }
    const AheadRows ahead = source_.ahead(last_source(y) + 1, last_source(y + 1) - last_source(y));
    for (const AxisSegment& segment : *args_.columns) {
      gather_segment(lines_, segment, width, start_.data(), ahead, target);
    }
    if (in_place_) return;
    for (int64_t x = 0; x < args_.target_width; ++x) {
      finish(line + x * args_.channels, finished_.data() + x * width);
    }
  }

  // Activates and rounds the sums of one pixel.
  void finish(T* to, const C* sums) const {
    int64_t c = 0;
    for (; c + kLanes<C> <= range_.count; c += kLanes<C>) {
      store_lanes(to + c, activate<T>(args_.activation, load(sums + c)), WholeVector{}, past_caches_);
    }
    if (c < range_.count) {
      store_first(to + c, activate<T>(args_.activation, load(sums + c)), range_.count - c);
    }
  }

  // The last source row that target rows up to y read.
  int64_t last_source(int64_t y) const {
    return args_.rows->of(std::min(y, args_.target_height - 1)).last_source;
  }

  const DepthwiseGather& args_;
  const ChannelRange<T>& range_;
  int64_t taps_;
  SourceRows<T> source_;
  Lines<C> lines_;
  AlignedBuffer<C> weights_, start_;
  Bounds bounds_;
  bool in_place_;  // rows are stored as they are made
  AlignedBuffer<C> finished_;
  T* target_ = nullptr;
  bool has_weights_ = false, past_caches_ = false;
};

// Sums the gradient of the weight over rows of the output, over a range of channels.
template <class T>
class GradientPass {
 public:
  using C = Sum<T>;

  GradientPass(const DepthwiseWeightGradient& args, const ChannelRange<T>& range)
      : args_(args),
        range_(range),
        input_(args.input, args.geometry.width.input, range, args.rows->span()),
        grad_(args.grad_output, args.geometry.width.output, range, 1),
        lines_{{}, args.geometry.width.input, input_.column_stride()},
        sums_(args.geometry.taps() * range.width) {
    std::fill(sums_.data(), sums_.data() + args.geometry.taps() * range.width, C(0));
  }

  void start(int64_t n) {
    input_.start(n * args_.geometry.input_pixels());
    grad_.start(n * args_.geometry.output_pixels());
  }

  void row(int64_t y) {
    const int64_t width = range_.width;
    const GradientRow<C> grad{grad_.row(y), grad_.column_stride()};
    lines_.each.clear();
    const AxisTaps::Range& taps = args_.rows->of(y);
    for (const AxisTap& tap : taps) {
      lines_.each.push_back(
          {input_.row(tap.source), sums_.data() + tap.tap * args_.geometry.width.kernel * width});
    }
    gradient_segment(lines_, args_.columns->front(), width, grad,
                     input_.ahead(taps.last_source + 1, args_.geometry.height.stride), grad_.ahead(y + 1, 1));
  }

  // Writes the sums to grad_weight [taps, C].
  void finish(C* grad_weight) const {
    for (int64_t t = 0; t < args_.geometry.taps(); ++t) {
      C* to = grad_weight + t * args_.geometry.out_channels + range_.begin;
      const C* from = sums_.data() + t * range_.width;
      for (int64_t c = range_.repeated; c < range_.count; ++c) to[c] = from[c];
    }
  }

 private:
  const DepthwiseWeightGradient& args_;
  const ChannelRange<T>& range_;
  SourceRows<T> input_, grad_;
  Lines<C> lines_;
  AlignedBuffer<C> sums_;
};

template <class T>
void gather(const DepthwiseGather& args, const DepthwiseTask& task) {
  const int64_t positions = args.rows->span() * args.source_width;
  for_each_range<T>(task.channel_begin, task.channel_end, positions, [&](const ChannelRange<T>& range) {
    GatherPass<T> pass(args, range);
    for (int64_t n = task.sample_begin; n < task.sample_end; ++n) {
      pass.start(n);
      pass.rows(0, args.target_height);
    }
  });
}

template <class T>
void backward(const DepthwiseGather* input_gradient, const DepthwiseWeightGradient& gradient,
              const DepthwiseTask& task, Sum<T>* grad_weight) {
  const ConvGeometry& geometry = gradient.geometry;
  int64_t positions = gradient.rows->span() * geometry.width.input;
  if (input_gradient) {
    positions += input_gradient->rows->span() * input_gradient->source_width;
  }
  for_each_range<T>(task.channel_begin, task.channel_end, positions, [&](const ChannelRange<T>& range) {
    GradientPass<T> sums(gradient, range);
    std::optional<GatherPass<T>> gathered;
    if (input_gradient) gathered.emplace(*input_gradient, range);
    for (int64_t n = task.sample_begin; n < task.sample_end; ++n) {
      sums.start(n);
      if (gathered) gathered->start(n);
      int64_t done = 0;  // rows of the input's gradient
      for (int64_t y = 0; y < geometry.height.output; ++y) {
        sums.row(y);
        const int64_t next = y + 1 < geometry.height.output
                                 ? std::min((y + 1) * geometry.height.stride, geometry.height.input)
                                 : geometry.height.input;
        if (gathered) gathered->rows(done, next);
        done = next;
      }
    }
    sums.finish(grad_weight);
  });
}

}  // namespace

void depthwise_gather(const DepthwiseGather& args, const DepthwiseTask& task) {
  dispatch_dtype(args.dtype, [&](auto* type) { gather<std::remove_pointer_t<decltype(type)>>(args, task); });
}

void depthwise_backward(const DepthwiseGather* input_gradient, const DepthwiseWeightGradient& gradient,
                        const DepthwiseTask& task, void* grad_weight) {
  dispatch_dtype(gradient.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    backward<T>(input_gradient, gradient, task, static_cast<Sum<T>*>(grad_weight));
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
