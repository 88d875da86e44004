// Convolutions by the CPU's kernels against loops over their definition, in buffers of exactly their sizes.
#pragma once

#include <limits>

#include "common/gather_plan.h"
#include "kernels.h"

namespace kshot::tests {

struct Shape {
  int64_t batch, in_channels, out_channels;
  AxisArguments height, width;

  ConvGeometry geometry() const {
    return {batch, in_channels, out_channels, axis_of(height), axis_of(width)};
  }
};

// Calls body(output pixel, tap, input pixel) wherever they meet inside the image.
template <class Body>
void for_each_meeting(const ConvGeometry& g, const Body& body) {
  for (int64_t y = 0; y < g.height.output; ++y) {
    for (int64_t ky = 0; ky < g.height.kernel; ++ky) {
      const int64_t from_y = y * g.height.stride - g.height.padding + ky * g.height.dilation;
      if (from_y < 0 || from_y >= g.height.input) continue;
      for (int64_t x = 0; x < g.width.output; ++x) {
        for (int64_t kx = 0; kx < g.width.kernel; ++kx) {
          const int64_t from_x = x * g.width.stride - g.width.padding + kx * g.width.dilation;
          if (from_x < 0 || from_x >= g.width.input) continue;
          body(y * g.width.output + x, ky * g.width.kernel + kx, from_y * g.width.input + from_x);
        }
      }
    }
  }
}

// Whether a plan lists every target once, and of its taps those that meet a source, and no others.
inline bool plan_is_right(const ConvGeometry& g, bool transposed) {
  const GatherPlan plan = transposed ? transposed_plan(g) : forward_plan(g);
  const int64_t targets = transposed ? g.height.input * g.width.input : g.height.output * g.width.output;
  if (plan.places() != targets || plan.taps != g.taps()) return false;
  const auto target_at = [&](int64_t place) {
    return plan.in_order ? static_cast<int32_t>(place) : plan.target[static_cast<size_t>(place)];
  };
  const auto source_at = [&](int64_t place, int64_t tap) {
    return plan.in_order ? static_cast<int32_t>(place)
                         : plan.source[static_cast<size_t>(place * plan.taps + tap)];
  };
  std::vector<int32_t> expected(static_cast<size_t>(targets * plan.taps), -1),
      seen(static_cast<size_t>(targets));
  for_each_meeting(g, [&](int64_t output, int64_t tap, int64_t input) {
    const int64_t target = transposed ? input : output, source = transposed ? output : input;
    expected[static_cast<size_t>(target * plan.taps + tap)] = static_cast<int32_t>(source);
  });
  for (int64_t place = 0; place < targets; ++place) {
    const int32_t target = target_at(place);
    if (target < 0 || target >= targets || seen[static_cast<size_t>(target)]++) return false;
    for (int64_t t = 0; t < plan.taps; ++t) {
      if (source_at(place, t) != expected[static_cast<size_t>(target * plan.taps + t)]) return false;
    }
  }
  return true;
}

template <class T>
struct ElementOf {
  static T from(double value) { return static_cast<T>(value); }
  static T nan() { return std::numeric_limits<T>::quiet_NaN(); }
  static double value(T element) { return static_cast<double>(element); }
};
template <>
struct ElementOf<BFloat16> {  // exact for whole numbers up to 256
  static BFloat16 from(double value) {
    const float wide = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &wide, sizeof bits);
    return {static_cast<uint16_t>(bits >> 16)};
  }
  static BFloat16 nan() { return {0x7fc0}; }
  static double value(BFloat16 element) {
    const uint32_t bits = static_cast<uint32_t>(element.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return static_cast<double>(wide);
  }
};

template <class T>
std::vector<T> elements(const std::vector<double>& values) {
  std::vector<T> result;
  for (const double value : values) result.push_back(ElementOf<T>::from(value));
  return result;
}
template <class T>
std::vector<double> values(const std::vector<T>& elements) {
  std::vector<double> result;
  for (const T& element : elements) result.push_back(ElementOf<T>::value(element));
  return result;
}

// Depthwise, forward and backward; C_out is C_in. Pixels of images and gradients lie `gap` elements further
// apart than channels_last has them.
template <class T>
bool check_depthwise(const Kernels& kernels, const Shape& shape, DType dtype, bool per_sample,
                     int64_t gap = 0) {
  const ConvGeometry g = shape.geometry();
  const int64_t c = g.in_channels, rows = per_sample ? g.batch : 1, out_size = g.output_size();
  const auto x = numbers<double>(g.batch * g.input_size(), 1), w = numbers<double>(rows * g.taps() * c, 2),
             bias = numbers<double>(rows * c, 3), grad = numbers<double>(g.batch * out_size, 4);
  std::vector<double> y(grad.size()), dx(x.size()), dw(w.size());
  for (int64_t n = 0; n < g.batch; ++n) {
    const int64_t row = per_sample ? n : 0;
    for (int64_t i = 0; i < out_size; ++i) y[n * out_size + i] = bias[row * c + i % c];
    for_each_meeting(g, [&](int64_t output, int64_t tap, int64_t input) {
      for (int64_t i = 0; i < c; ++i) {
        const int64_t at_y = n * out_size + output * c + i, at_x = n * g.input_size() + input * c + i,
                      at_w = (row * g.taps() + tap) * c + i;
        y[at_y] += x[at_x] * w[at_w];
        dx[at_x] += grad[at_y] * w[at_w];
        dw[at_w] += grad[at_y] * x[at_x];
      }
    });
  }

  const std::vector<T> tw = elements<T>(w), tb = elements<T>(bias);
  const SpreadPixels<T> tx(elements<T>(x), c, gap, ElementOf<T>::nan()),
      tg(elements<T>(grad), c, 2 * gap, ElementOf<T>::nan());
  std::vector<T> ty(y.size()), tdx(dx.size());
  const auto columns = forward_segments(g.width), back_columns = transposed_segments(g.width);
  const AxisTaps taps(forward_segments(g.height), g.height.output, g.height.input);
  const AxisTaps back_taps(transposed_segments(g.height), g.height.input, g.height.output);
  const int64_t stride = per_sample ? g.taps() * c : 0;
  const cpu::DepthwiseGather forward{
      dtype,          c,         g.height.input, g.width.input,   g.height.output,
      g.width.output, &taps,     &columns,       g.height.kernel, g.width.kernel,
      tx.pixels(),    tw.data(), stride,         tb.data(),       per_sample ? c : 0,
      ty.data(),      false};
  const cpu::DepthwiseGather back{dtype,         c,          g.height.output, g.width.output,  g.height.input,
                                  g.width.input, &back_taps, &back_columns,   g.height.kernel, g.width.kernel,
                                  tg.pixels(),   tw.data(),  stride,          nullptr,         0,
                                  tdx.data(),    false};
  const cpu::DepthwiseWeightGradient weight{dtype, g, &taps, &columns, tx.pixels(), tg.pixels()};
  on_two_threads(g.batch,
                 [&](int64_t begin, int64_t end) { kernels.depthwise_gather(forward, {begin, end, 0, c}); });
  // Sums of a shared weight belong to a task with all samples, so threads share the channels; otherwise the
  // samples.
  std::vector<Sum<T>> sums(dw.size());
  if (per_sample) {
    on_two_threads(g.batch, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        kernels.depthwise_backward(&back, weight, {n, n + 1, 0, c}, sums.data() + n * g.taps() * c);
      }
    });
  } else {
    const int64_t half = c / 64 * 32;
    on_two_threads(2, [&](int64_t begin, int64_t) {
      const int64_t from = begin ? half : 0, to = begin ? c : half;
      if (from < to) kernels.depthwise_backward(&back, weight, {0, g.batch, from, to}, sums.data());
    });
  }
  return equal("depthwise", kernels, values(ty), y) && equal("depthwise, input", kernels, values(tdx), dx) &&
         equal("depthwise, weight", kernels, sums, dw);
}

// Dense float32: the gathers of both directions and the gradient of the weight, through panels.
inline bool check_dense(const Kernels& kernels, const Shape& shape, int64_t gap = 0) {
  const ConvGeometry g = shape.geometry();
  const int64_t in = g.in_channels, out = g.out_channels, taps = g.taps(), out_size = g.output_size();
  const auto x = numbers<float>(g.batch * g.input_size(), 1), w = numbers<float>(out * taps * in, 2),
             bias = numbers<float>(out, 3), grad = numbers<float>(g.batch * out_size, 4);
  std::vector<double> y(grad.size()), dx(x.size()), dw(w.size());
  for (int64_t n = 0; n < g.batch; ++n) {
    for (int64_t i = 0; i < out_size; ++i) y[n * out_size + i] = bias[i % out];
    for_each_meeting(g, [&](int64_t output, int64_t tap, int64_t input) {
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t i = 0; i < in; ++i) {
          const int64_t at_y = n * out_size + output * out + o, at_x = n * g.input_size() + input * in + i,
                        at_w = (o * taps + tap) * in + i;
          y[at_y] += static_cast<double>(x[at_x]) * w[at_w];
          dx[at_x] += static_cast<double>(grad[at_y]) * w[at_w];
          dw[at_w] += static_cast<double>(grad[at_y]) * x[at_x];
        }
      }
    });
  }

  const SpreadPixels<float> spread_x(x, in, gap, ElementOf<float>::nan()),
      spread_grad(grad, out, 2 * gap, ElementOf<float>::nan());
  const Pixels<float> px = spread_x.pixels<float>(), pg = spread_grad.pixels<float>();
  // The weight as [C_out, taps, C_in], that is channels_last.
  const cpu::WeightView view{w.data(), out, in, taps, taps * in, 1, in};
  const GatherPlan plan = forward_plan(g), back = transposed_plan(g);
  std::vector<float> ty(y.size()), tdx(dx.size());
  bool passed = true;
  for (const bool by_output : {true, false}) {
    const int64_t channels = by_output ? out : in, depth = by_output ? in : out;
    int64_t width = 0;
    kernels.choose_panel_width(channels, width);
    const int64_t count = (channels + width - 1) / width, size = taps * depth * width;
    std::vector<float> packed(static_cast<size_t>(count * size));
    for (int64_t p = 0; p < count; ++p) {
      (by_output ? kernels.pack_by_output : kernels.pack_by_input)(view, p, width, packed.data() + p * size);
    }
    const cpu::DenseGather gather = by_output ? cpu::DenseGather{&plan, in, out, px, ty.data(), false}
                                              : cpu::DenseGather{&back, out, in, pg, tdx.data(), false};
    const cpu::PanelRange<const float*> panels{packed.data(), size, width, 0, count};
    on_two_threads(g.batch * gather.plan->places(), [&](int64_t begin, int64_t end) {
      kernels.dense_gather(gather, panels, by_output ? bias.data() : nullptr, begin, end);
    });
    // Sums of before that must go.
    cpu::DenseWeightGradient args{&plan, in, out, px, pg, by_output, 0, depth};
    args.overwrite = true;
    std::vector<float> sums(packed.size(), ElementOf<float>::nan()), unpacked(w.size());
    on_two_threads(count, [&](int64_t begin, int64_t end) {
      if (begin == end) return;
      const cpu::PanelRange<float*> own{sums.data() + begin * size, size, width, begin, end};
      kernels.dense_weight_gradient(args, own, 0, g.batch * plan.places());
    });
    for (int64_t p = 0; p < count; ++p) {
      (by_output ? kernels.unpack_by_output : kernels.unpack_by_input)(view, p, width, sums.data() + p * size,
                                                                       unpacked.data());
    }
    passed = equal("dense, weight", kernels, unpacked, dw) && passed;
  }
  return equal("dense", kernels, ty, y) && equal("dense, input", kernels, tdx, dx) && passed;
}

}  // namespace kshot::tests
