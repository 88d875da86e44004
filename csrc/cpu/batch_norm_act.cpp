// Batch norm, residual and activation, channels_last:
//
//     z = (x - mean) * inverse_deviation * weight + bias + residual        output = activation(z)
//
// and, with g = dL/doutput * activation'(z), xhat = (x - mean) * inverse_deviation:
//
//     dL/dresidual = g      dL/dbias = sum g      dL/dweight = sum g * xhat
//     dL/dx = inverse_deviation * (weight * g - A - xhat * B)
//
// where A and B are the means over positions of weight * g and weight * g * xhat (zero for fixed statistics);
// per channel, z and dL/dx are linear in x and g, so a few coefficients serve.
//
// Channels are the lanes. A task owns a range of positions; it works on blocks of a few positions by one
// vector of channels, whose per-channel values stay in registers, and asks for the next block's lines one by
// one meanwhile: the processor does not foresee this order. Each pass reads its tensors from memory once:
// training takes two reads and a write forward, four reads and a write backward, nothing is stored between
// but x. Bound by memory.
#include "cpu/batch_norm_act.h"

#include <algorithm>
#include <type_traits>

#include "cpu/activation_values.h"
#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// Positions of a block: its elements stay in L1 while the next block's are asked for.
constexpr int64_t positions_of(int64_t channels) {
  return std::clamp<int64_t>(4096 / std::max<int64_t>(channels, 1), 4, 16);
}

// Calls body(channel, lanes, first position, end of positions) for the blocks.
template <class C, class Body>
inline void for_each_block(int64_t channels, int64_t begin, int64_t end, const Body& body) {
  const int64_t positions = positions_of(channels);
  for (int64_t p = begin; p < end; p += positions) {
    const int64_t stop = std::min(p + positions, end);
    for (int64_t c = 0; c < channels; c += kLanes<C>) {
      with_lanes<C>(std::min(kLanes<C>, channels - c), [&](auto lanes) { body(c, lanes, p, stop); });
    }
  }
}

// Loads a value, and asks for the one in the same place of the next block.
class Ahead {
 public:
  explicit Ahead(int64_t channels) : distance_(positions_of(channels) * channels) {}

  template <class T, class Lanes>
  Vec<Sum<T>> load(const T* p, Lanes lanes) const {
    __builtin_prefetch(p + distance_);
    return load_lanes(p, lanes);
  }

 private:
  int64_t distance_;
};

// Per-channel values: z = x * scale + shift + residual.
template <class T>
struct Channels {
  using C = Sum<T>;
  Vec<C> mean, inverse_deviation, scale, shift;

  template <class Lanes>
  Channels(const BatchNormAct& args, int64_t sample, int64_t c, Lanes lanes) {
    const auto per_channel = [&](const void* values, int64_t stride, C otherwise) {
      return values ? load_lanes(static_cast<const C*>(values) + sample * stride + c, lanes)
                    : splat(otherwise);
    };
    mean = per_channel(args.mean, 0, 0);
    inverse_deviation = per_channel(args.inverse_deviation, 0, 1);
    scale = inverse_deviation * per_channel(args.weight, args.weight_stride, 1);
    shift = per_channel(args.bias, args.bias_stride, 0) - mean * scale;
  }
};

template <class T, class Lanes>
inline Vec<Sum<T>> argument(const Channels<T>& channels, const BatchNormAct& args, Vec<Sum<T>> x, int64_t at,
                            Lanes lanes, const Ahead& ahead) {
  const Vec<Sum<T>> z = x * channels.scale + channels.shift;
  return args.residual ? z + ahead.load(static_cast<const T*>(args.residual) + at, lanes) : z;
}

template <class T>
void moments(const T* input, int64_t channels, int64_t begin, int64_t end, Sum<T>* result) {
  using C = Sum<T>;
  const Ahead ahead(channels);
  C* means = result;
  C* squares = result + channels;
  std::fill(result, result + 2 * channels, C(0));
  for_each_block<C>(channels, begin, end, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    Vec<C> sum = {}, deviations = {};
    for (int64_t i = p; i < stop; ++i) sum += ahead.load(input + i * channels + c, lanes);
    const C block = static_cast<C>(stop - p), before = static_cast<C>(p - begin), after = before + block;
    const Vec<C> block_mean = sum * (C(1) / block);
    for (int64_t i = p; i < stop; ++i) {
      const Vec<C> deviation = load_lanes(input + i * channels + c, lanes) - block_mean;
      deviations += deviation * deviation;
    }
    // Joins the moments of two sets of positions (Chan, Golub, LeVeque 1979).
    const Vec<C> mean = load_lanes(means + c, lanes), distance = block_mean - mean;
    store_lanes(means + c, mean + distance * (block / after), lanes);
    store_lanes(squares + c,
                load_lanes(squares + c, lanes) + deviations + distance * distance * (before * block / after),
                lanes);
  });
}

template <class T, bool relu>
void forward(const BatchNormAct& args, int64_t sample, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const Ahead ahead(args.channels);
  const T* input = static_cast<const T*>(args.input);
  T* output = static_cast<T*>(args.output);
  const bool past_caches = args.past_caches && can_pass_caches(output, args.channels);
  for_each_block<C>(args.channels, begin, end, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    const Channels<T> channels(args, sample, c, lanes);
    for (int64_t i = p; i < stop; ++i) {
      const int64_t at = i * args.channels + c;
      const Vec<C> z = argument<T>(channels, args, ahead.load(input + at, lanes), at, lanes, ahead);
      store_lanes(output + at, activate<T, relu>(args.activation, z), lanes, past_caches);
    }
  });
  if (past_caches) finish_stores();
}

template <class T, bool relu>
void backward_sums(const BatchNormActBackward& args, int64_t sample, int64_t begin, int64_t end,
                   Sum<T>* sums) {
  using C = Sum<T>;
  const BatchNormAct& forward = args.forward;
  const Ahead ahead(forward.channels);
  const T* input = static_cast<const T*>(forward.input);
  const T* grad = static_cast<const T*>(args.grad_output);
  C* normalised_sums = sums + forward.channels;
  for_each_block<C>(forward.channels, begin, end, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    const Channels<T> channels(forward, sample, c, lanes);
    Vec<C> sum = {}, sum_deviation = {};
    for (int64_t i = p; i < stop; ++i) {
      const int64_t at = i * forward.channels + c;
      const Vec<C> x = ahead.load(input + at, lanes);
      const Vec<C> z = argument<T>(channels, forward, x, at, lanes, ahead);
      const Vec<C> g = times_slope<T, relu>(forward.activation, ahead.load(grad + at, lanes), z);
      sum += g;
      sum_deviation += g * (x - channels.mean);
    }
    store_lanes(sums + c, load_lanes(sums + c, lanes) + sum, lanes);
    store_lanes(normalised_sums + c,
                load_lanes(normalised_sums + c, lanes) + sum_deviation * channels.inverse_deviation, lanes);
  });
}

template <class T, bool relu>
void backward(const BatchNormActBackward& args, int64_t sample, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const BatchNormAct& forward = args.forward;
  const Ahead ahead(forward.channels);
  const T* input = static_cast<const T*>(forward.input);
  const T* grad = static_cast<const T*>(args.grad_output);
  T* grad_input = static_cast<T*>(args.grad_input);
  T* grad_residual = static_cast<T*>(args.grad_residual);
  const bool past_caches = forward.past_caches && can_pass_caches(grad_input, forward.channels) &&
                           can_pass_caches(grad_residual, forward.channels);
  for_each_block<C>(forward.channels, begin, end, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    const Channels<T> channels(forward, sample, c, lanes);
    Vec<C> mean_grad = {}, mean_normalised = {};
    if (args.mean_grad) {
      mean_grad = load_lanes(static_cast<const C*>(args.mean_grad) + c, lanes);
      mean_normalised = load_lanes(static_cast<const C*>(args.mean_grad_normalised) + c, lanes);
    }
    const Vec<C> of_deviation = channels.inverse_deviation * channels.inverse_deviation * mean_normalised;
    const Vec<C> constant = channels.inverse_deviation * mean_grad;
    for (int64_t i = p; i < stop; ++i) {
      const int64_t at = i * forward.channels + c;
      const Vec<C> x = ahead.load(input + at, lanes);
      const Vec<C> z = argument<T>(channels, forward, x, at, lanes, ahead);
      const Vec<C> g = times_slope<T, relu>(forward.activation, ahead.load(grad + at, lanes), z);
      if (grad_residual) store_lanes(grad_residual + at, g, lanes, past_caches);
      const Vec<C> grad_x = channels.scale * g - constant - (x - channels.mean) * of_deviation;
      store_lanes(grad_input + at, grad_x, lanes, past_caches);
    }
  });
  if (past_caches) finish_stores();
}

// Calls body(null pointer to the element type, whether the loop is the one for ReLU, as a constant).
template <class Body>
void dispatch(const BatchNormAct& args, const Body& body) {
  if (args.dtype == DType::kFloat32 && args.activation == Activation::kRelu) {
    return body(static_cast<float*>(nullptr), std::true_type{});
  }
  dispatch_dtype(args.dtype, [&](auto* type) { body(type, std::false_type{}); });
}

}  // namespace

void batch_norm_moments(DType dtype, const void* input, int64_t channels, int64_t begin, int64_t end,
                        void* result) {
  dispatch_dtype(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    moments(static_cast<const T*>(input), channels, begin, end, static_cast<Sum<T>*>(result));
  });
}

void batch_norm_act(const BatchNormAct& args, int64_t sample, int64_t begin, int64_t end) {
  dispatch(args, [&](auto* type, auto relu) {
    forward<std::remove_pointer_t<decltype(type)>, decltype(relu)::value>(args, sample, begin, end);
  });
}

void batch_norm_act_sums(const BatchNormActBackward& args, int64_t sample, int64_t begin, int64_t end,
                         void* sums) {
  dispatch(args.forward, [&](auto* type, auto relu) {
    using T = std::remove_pointer_t<decltype(type)>;
    backward_sums<T, decltype(relu)::value>(args, sample, begin, end, static_cast<Sum<T>*>(sums));
  });
}

void batch_norm_act_backward(const BatchNormActBackward& args, int64_t sample, int64_t begin, int64_t end) {
  dispatch(args.forward, [&](auto* type, auto relu) {
    backward<std::remove_pointer_t<decltype(type)>, decltype(relu)::value>(args, sample, begin, end);
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
