// Depthwise links of a chain (see chained_rows.h), row by row:
//
//     x rows --map--> ring of z rows --taps--> rows of y, stored with their moments
//
// and backward
//
//     g, y rows ------> ring of G rows --turned taps--> rows of dL/dz --slope--> stored, with their sums
//     x rows --map----> ring of z rows --with G--> gradient of the weight
//
// A ring holds as many rows as the taps of one row span, so that each row of a tensor is read from memory
// once. Channels are the lanes; a task owns some samples and a range of channels, and works on as many of
// these at a time as its rings fit the second cache. Tiles are those of the plain convolution
// (depthwise_tiles.h). Large images are bound by memory: 2 tensors forward, 4 backward.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/aligned_buffer.h"
#include "cpu/chained_rows.h"
#include "cpu/depthwise_rows.h"
#include "cpu/depthwise_tiles.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// The last few rows of one sample that were asked for, made by `fill(row, where to)`. Lanes beyond the last
// channel stay zero.
class Ring {
 public:
  Ring(int64_t rows, int64_t columns, int64_t width)
      : row_size_(columns * width), held_(static_cast<size_t>(rows), -1), buffer_(rows * row_size_) {
    std::fill(buffer_.data(), buffer_.data() + rows * row_size_, 0.0f);
  }

  void start() { std::fill(held_.begin(), held_.end(), -1); }

  template <class Fill>
  const float* row(int64_t y, const Fill& fill) {
    const size_t slot = static_cast<size_t>(y) % held_.size();
    float* line = buffer_.data() + static_cast<int64_t>(slot) * row_size_;
    if (held_[slot] != y) {
      held_[slot] = y;
      fill(y, line);
    }
    return line;
  }

 private:
  int64_t row_size_;
  std::vector<int64_t> held_;
  AlignedBuffer<float> buffer_;
};

// The rows of one sample of a tensor, over a range of channels.
template <class T>
struct SampleRows {
  const T* first = nullptr;
  int64_t columns = 0, channels = 0;

  SampleRows() = default;
  SampleRows(const void* tensor, int64_t sample, int64_t rows, int64_t columns, const Span& span)
      : first(static_cast<const T*>(tensor) + sample * rows * columns * span.stride + span.begin),
        columns(columns),
        channels(span.stride) {}

  const T* row(int64_t y) const { return first + y * columns * channels; }
  // To ask for the `count` rows from row y on.
  AheadRows ahead(int64_t y, int64_t count) const {
    const int64_t column = channels * static_cast<int64_t>(sizeof(T)), row = columns * column;
    return {reinterpret_cast<const char*>(first) + y * row, row, column, sizeof(T), count};
  }
};

// The taps' weights, and zeros that sums start from, of a range of channels.
class Weights {
 public:
  Weights(const ChainDepthwise& args, const ChannelRange<float>& range)
      : args_(args),
        range_(range),
        taps_(args.geometry.taps()),
        weights_(taps_ * range.width),
        start_(range.width) {
    std::fill(weights_.data(), weights_.data() + taps_ * range.width, 0.0f);
    std::fill(start_.data(), start_.data() + range.width, 0.0f);
  }

  void start(int64_t sample) {
    if (loaded_ && !args_.weight_stride) return;
    const float* weight = args_.weight + sample * args_.weight_stride + range_.begin;
    for (int64_t t = 0; t < taps_; ++t) {
      range_.widen(weights_.data() + t * range_.width, weight + t * args_.geometry.in_channels);
    }
    loaded_ = true;
  }

  // Of the kernel's row that tap row `tap` is.
  float* row(int64_t tap) { return weights_.data() + tap * args_.geometry.width.kernel * range_.width; }
  const float* zeros() const { return start_.data(); }

 private:
  const ChainDepthwise& args_;
  const ChannelRange<float>& range_;
  int64_t taps_;
  AlignedBuffer<float> weights_, start_;
  bool loaded_ = false;
};

// What forward and backward share: the input's rows, mapped.
template <class T, bool relu>
class MappedInput {
 public:
  MappedInput(const ChainDepthwise& args, const Span& span, int64_t width)
      : args_(args), span_(span), width_(width), ring_(args.rows->span(), args.geometry.width.input, width) {}

  void start(int64_t sample) {
    sample_ = sample;
    raw = SampleRows<T>(args_.input.data, sample, args_.geometry.height.input, args_.geometry.width.input,
                        span_);
    ring_.start();
  }
  const float* row(int64_t y) {
    return ring_.row(y, [&](int64_t from, float* to) {
      load_rows<T, relu>(args_.input, sample_, span_, raw.row(from), raw.columns, to, width_);
    });
  }
  // The last row that output rows up to y read.
  int64_t last(int64_t y) const {
    return args_.rows->of(std::min(y, args_.geometry.height.output - 1)).last_source;
  }

  SampleRows<T> raw;

 private:
  const ChainDepthwise& args_;
  Span span_;
  int64_t width_, sample_ = 0;
  Ring ring_;
};

template <class T, bool relu>
void forward(const ChainDepthwise& args, const ChainResult& output, const DepthwiseTask& task,
             const ChannelRange<float>& range, float* moments) {
  const ConvGeometry& g = args.geometry;
  const Span span{range.begin, range.count, g.in_channels};
  MappedInput<T, relu> input(args, span, range.width);
  Weights weights(args, range);
  // Rows are stored a few at a time: moments of longer blocks are cheaper to join.
  const int64_t row = g.width.output * range.width,
                most = std::clamp<int64_t>(32 / g.width.output, 1, g.height.output);
  AlignedBuffer<float> block(most * row);
  Lines<float> lines{{}, g.width.input, range.width};
  const bool past_caches =
      output.past_caches && can_pass_caches(static_cast<const T*>(output.data), g.in_channels);
  int64_t before = 0;
  for (int64_t n = task.sample_begin; n < task.sample_end; ++n) {
    input.start(n);
    weights.start(n);
    for (int64_t begin = 0; begin < g.height.output; begin += most) {
      const int64_t end = std::min(begin + most, g.height.output);
      for (int64_t y = begin; y < end; ++y) {
        lines.each.clear();
        for (const AxisTap& tap : args.rows->of(y)) {
          lines.each.push_back({input.row(tap.source), weights.row(tap.tap)});
        }
        const AheadRows ahead = input.raw.ahead(input.last(y) + 1, input.last(y + 1) - input.last(y));
        const TargetRow<float> target{block.data() + (y - begin) * row, range.width, range.width, false};
        for (const AxisSegment& segment : *args.columns) {
          gather_segment(lines, segment, range.width, weights.zeros(), ahead, target);
        }
      }
      T* to = static_cast<T*>(output.data) + (n * g.height.output + begin) * g.width.output * g.in_channels +
              range.begin;
      const int64_t positions = (end - begin) * g.width.output;
      store_rows(block.data(), range.width, positions, span, to, past_caches, moments, g.in_channels, before);
      before += positions;
    }
  }
  if (past_caches) finish_stores();
}

// Backward over the samples of a task and a range of channels.
template <class T, bool relu>
class BackwardPass {
 public:
  BackwardPass(const ChainDepthwiseBackward& args, const ChannelRange<float>& range)
      : args_(args),
        geometry_(args.forward.geometry),
        range_(range),
        span_{range.begin, range.count, geometry_.in_channels},
        input_(args.forward, span_, range.width),
        gradients_(args.transposed_rows->span(), geometry_.width.output, range.width),
        weights_(args.forward, range),
        sums_(geometry_.taps() * range.width),
        row_(geometry_.width.input * range.width),
        lines_{{}, geometry_.width.input, range.width},
        transposed_lines_{{}, geometry_.width.output, range.width} {
    std::fill(sums_.data(), sums_.data() + geometry_.taps() * range.width, 0.0f);
    past_caches_ = args.grad_input.past_caches &&
                   can_pass_caches(static_cast<const T*>(args.grad_input.data), span_.stride);
  }
  ~BackwardPass() {
    if (past_caches_) finish_stores();
  }

  void sample(int64_t n, float* sums) {
    input_.start(n);
    weights_.start(n);
    gradients_.start();
    grad_ = rows_of(args_.gradient.grad, n);
    output_ = args_.gradient.output ? rows_of(args_.gradient.output, n) : SampleRows<T>();
    int64_t done = 0;  // rows of the input's gradient
    for (int64_t y = 0; y < geometry_.height.output; ++y) {
      add_to_weight(y);
      if (!args_.grad_input.data) continue;
      const bool all = y + 1 == geometry_.height.output;
      while (done < geometry_.height.input && (all || args_.transposed_rows->of(done).last_source <= y)) {
        input_row(n, done++, y, sums);
      }
    }
  }

  // Writes the gradient of the weight, [taps, C].
  void finish(float* grad_weight) const {
    for (int64_t t = 0; t < geometry_.taps(); ++t) {
      const float* from = sums_.data() + t * range_.width;
      std::copy(from, from + range_.count, grad_weight + t * geometry_.in_channels + range_.begin);
    }
  }

 private:
  SampleRows<T> rows_of(const void* tensor, int64_t n) const {
    return SampleRows<T>(tensor, n, geometry_.height.output, geometry_.width.output, span_);
  }

  const float* gradient_row(int64_t y) {
    return gradients_.row(y, [&](int64_t from, float* to) {
      load_gradient_rows(args_.gradient, span_, grad_.row(from), output_.first ? output_.row(from) : nullptr,
                         grad_.columns, to, range_.width);
    });
  }

  void add_to_weight(int64_t y) {
    const GradientRow<float> grad{gradient_row(y), range_.width};
    lines_.each.clear();
    for (const AxisTap& tap : args_.forward.rows->of(y)) {
      lines_.each.push_back(
          {input_.row(tap.source), sums_.data() + tap.tap * geometry_.width.kernel * range_.width});
    }
    gradient_segment(lines_, args_.forward.columns->front(), range_.width, grad,
                     input_.raw.ahead(input_.last(y) + 1, input_.last(y + 1) - input_.last(y)),
                     grad_.ahead(y + 1, y + 1 < geometry_.height.output));
  }

  void input_row(int64_t n, int64_t i, int64_t y, float* sums) {
    transposed_lines_.each.clear();
    for (const AxisTap& tap : args_.transposed_rows->of(i)) {
      transposed_lines_.each.push_back({gradient_row(tap.source), weights_.row(tap.tap)});
    }
    const AheadRows none{nullptr, 0, 0, 0, 0};
    const bool more = output_.first && y + 1 < geometry_.height.output;
    const AheadRows ahead = more ? output_.ahead(y + 1, 1) : none;
    const TargetRow<float> target{row_.data(), range_.width, range_.width, false};
    for (const AxisSegment& segment : *args_.transposed_columns) {
      gather_segment(transposed_lines_, segment, range_.width, weights_.zeros(), ahead, target);
    }
    T* to = static_cast<T*>(args_.grad_input.data) +
            (n * geometry_.height.input + i) * geometry_.width.input * span_.stride + span_.begin;
    store_gradient_rows<T, relu>(args_.forward.input, n, span_, input_.raw.row(i), row_.data(), range_.width,
                                 geometry_.width.input, to, past_caches_, sums);
  }

  const ChainDepthwiseBackward& args_;
  const ConvGeometry& geometry_;
  const ChannelRange<float>& range_;
  Span span_;
  MappedInput<T, relu> input_;
  SampleRows<T> grad_, output_;
  Ring gradients_;
  Weights weights_;
  AlignedBuffer<float> sums_, row_;
  Lines<float> lines_, transposed_lines_;
  bool past_caches_ = false;
};

// Calls body(range) for ranges of the task's channels whose rows, `positions` of them, fit the second cache.
template <class Body>
void for_each_fitting_range(const DepthwiseTask& task, int64_t positions, const Body& body) {
  constexpr int64_t kElements = 1 << 16, block = kBlock<float>;
  const int64_t most = std::max(2 * block, kElements / positions / block * block);
  for (int64_t c = task.channel_begin; c < task.channel_end; c += most) {
    body(ChannelRange<float>(c, std::min(c + most, task.channel_end)));
  }
}

}  // namespace

void chained_depthwise(const ChainDepthwise& args, const ChainResult& output, const DepthwiseTask& task,
                       float* moments) {
  if (moments) {
    for (int64_t half = 0; half < 2; ++half) {
      float* first = moments + half * args.geometry.in_channels;
      std::fill(first + task.channel_begin, first + task.channel_end, 0.0f);
    }
  }
  const int64_t positions = 2 * args.rows->span() * args.geometry.width.input + args.geometry.width.output;
  dispatch_chain(args.input.dtype, args.input.activation, [&](auto* type, auto relu) {
    for_each_fitting_range(task, positions, [&](const ChannelRange<float>& range) {
      forward<std::remove_pointer_t<decltype(type)>, decltype(relu)::value>(args, output, task, range,
                                                                            moments);
    });
  });
}

void chained_depthwise_backward(const ChainDepthwiseBackward& args, const DepthwiseTask& task,
                                float* grad_weight, float* sums) {
  const ConvGeometry& g = args.forward.geometry;
  const int64_t positions = 2 * args.forward.rows->span() * g.width.input + g.width.input +
                            (args.transposed_rows->span() + 2) * g.width.output;
  dispatch_chain(args.forward.input.dtype, args.forward.input.activation, [&](auto* type, auto relu) {
    for_each_fitting_range(task, positions, [&](const ChannelRange<float>& range) {
      BackwardPass<std::remove_pointer_t<decltype(type)>, decltype(relu)::value> pass(args, range);
      for (int64_t n = task.sample_begin; n < task.sample_end; ++n) {
        pass.sample(n, sums ? sums + n * args.sums_stride : nullptr);
      }
      pass.finish(grad_weight);
    });
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
