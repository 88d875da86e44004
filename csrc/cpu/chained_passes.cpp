// Blocks of positions of a chain, all channels: what links of dense convolutions load into and store from the
// buffers that the product's kernels (dense_conv2d.cpp) work on, and the end of a chain. See chained_rows.h.
// Bound by memory.
#include "cpu/chained_rows.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

Span all_channels(int64_t channels) {
  return {0, channels, channels};
}

template <class T, bool relu>
void end_rows(const ChainEnd& args, int64_t sample, int64_t begin, int64_t end) {
  const ChainInput& input = args.input;
  const T* x = static_cast<const T*>(input.data);
  const T* residual = static_cast<const T*>(args.residual);
  T* output = static_cast<T*>(args.output.data);
  const float *scale = input.scale + sample * input.stride, *shift = input.shift + sample * input.stride;
  const bool past_caches = args.output.past_caches && can_pass_caches(output, input.channels);
  for (int64_t p = begin; p < end; ++p) {
    for_each_lanes(input.channels, [&](int64_t c, auto lanes) {
      const int64_t at = p * input.channels + c;
      F z = load_lanes(x + at, lanes) * load_lanes(scale + c, lanes) + load_lanes(shift + c, lanes);
      if (residual) z += load_lanes(residual + at, lanes);
      store_lanes(output + at, activate<float>(kind_of<relu>(input.activation), z), lanes, past_caches);
    });
  }
  if (past_caches) finish_stores();
}

template <class T, bool relu>
void end_gradient_rows(const ChainEnd& args, int64_t sample, int64_t begin, int64_t end, float* sums) {
  const ChainInput& input = args.input;
  const T* x = static_cast<const T*>(input.data);
  const T* residual = static_cast<const T*>(args.residual);
  const T* grad = static_cast<const T*>(args.grad);
  T* grad_input = static_cast<T*>(args.grad_input.data);
  T* grad_residual = static_cast<T*>(args.grad_residual.data);
  const int64_t channels = input.channels;
  const bool past_caches = args.grad_input.past_caches && can_pass_caches(grad_input, channels) &&
                           can_pass_caches(grad_residual, channels);
  for_each_channel_block(end - begin, channels, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    const F scale = load_lanes(input.scale + sample * input.stride + c, lanes),
            shift = load_lanes(input.shift + sample * input.stride + c, lanes),
            mean = load_lanes(input.mean + c, lanes);
    F sum = {}, sum_deviation = {};
    for (int64_t i = begin + p; i < begin + stop; ++i) {
      const int64_t at = i * channels + c;
      const F value = load_lanes(x + at, lanes);
      F z = value * scale + shift;
      if (residual) z += load_lanes(residual + at, lanes);
      const F h = times_slope<float>(kind_of<relu>(input.activation), load_lanes(grad + at, lanes), z);
      sum += h;
      sum_deviation += h * (value - mean);
      if (grad_residual) store_lanes(grad_residual + at, h, lanes, past_caches);
      store_lanes(grad_input + at, h * scale, lanes, past_caches);
    }
    store_lanes(sums + c, load_lanes(sums + c, lanes) + sum, lanes);
    float* total = sums + channels + c;
    const F inverse = load_lanes(input.inverse_deviation + c, lanes);
    store_lanes(total, load_lanes(total, lanes) + sum_deviation * inverse, lanes);
  });
  if (past_caches) finish_stores();
}

}  // namespace

void chain_load(const ChainInput& input, int64_t sample, int64_t begin, int64_t end, float* values) {
  dispatch_chain(input.dtype, input.activation, [&](auto* type, auto relu) {
    using T = std::remove_pointer_t<decltype(type)>;
    load_rows<T, decltype(relu)::value>(input, sample, all_channels(input.channels),
                                        static_cast<const T*>(input.data) + begin * input.channels,
                                        end - begin, values, input.channels);
  });
}

void chain_load_gradient(const ChainGradient& gradient, int64_t begin, int64_t end, float* values) {
  dispatch_chain(gradient.dtype, Activation::kIdentity, [&](auto* type, auto) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* output = static_cast<const T*>(gradient.output);
    load_gradient_rows(gradient, all_channels(gradient.channels),
                       static_cast<const T*>(gradient.grad) + begin * gradient.channels,
                       output ? output + begin * gradient.channels : nullptr, end - begin, values,
                       gradient.channels);
  });
}

void chain_store(const ChainResult& output, int64_t begin, int64_t end, const float* values, float* moments,
                 int64_t before) {
  dispatch_chain(output.dtype, Activation::kIdentity, [&](auto* type, auto) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* to = static_cast<T*>(output.data) + begin * output.channels;
    const bool past_caches = output.past_caches && can_pass_caches(to, output.channels);
    store_rows(values, output.channels, end - begin, all_channels(output.channels), to, past_caches, moments,
               output.channels, before);
    if (past_caches) finish_stores();
  });
}

void chain_store_gradient(const ChainInput& input, const ChainResult& grad_input, int64_t sample,
                          int64_t begin, int64_t end, const float* values, float* sums) {
  dispatch_chain(input.dtype, input.activation, [&](auto* type, auto relu) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t offset = begin * input.channels;
    T* to = static_cast<T*>(grad_input.data) + offset;
    const bool past_caches = grad_input.past_caches && can_pass_caches(to, input.channels);
    store_gradient_rows<T, decltype(relu)::value>(input, sample, all_channels(input.channels),
                                                  static_cast<const T*>(input.data) + offset, values,
                                                  input.channels, end - begin, to, past_caches, sums);
    if (past_caches) finish_stores();
  });
}

void chain_end(const ChainEnd& args, int64_t sample, int64_t begin, int64_t end) {
  dispatch_chain(args.input.dtype, args.input.activation, [&](auto* type, auto relu) {
    end_rows<std::remove_pointer_t<decltype(type)>, decltype(relu)::value>(args, sample, begin, end);
  });
}

void chain_end_backward(const ChainEnd& args, int64_t sample, int64_t begin, int64_t end, float* sums) {
  dispatch_chain(args.input.dtype, args.input.activation, [&](auto* type, auto relu) {
    end_gradient_rows<std::remove_pointer_t<decltype(type)>, decltype(relu)::value>(args, sample, begin, end,
                                                                                    sums);
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
