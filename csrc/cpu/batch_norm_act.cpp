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

// Positions of a block: its elements stay in the nearest caches while the next block's are asked for. Rows of
// few vectors make longer blocks, since what is done once a block would otherwise take as long as the block
// itself; with 16 positions of 1024 channels, which share a set of L1, it took half as long again.
constexpr int64_t positions_of(int64_t channels) {
  return std::clamp<int64_t>(8192 / std::max<int64_t>(channels, 1), 8, channels <= 64 ? 64 : 16);
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

// Loads values of a tensor, and asks for those in the same place of the next block.
template <class T>
class Rows {
 public:
  Rows(const Pixels<void>& pixels, int64_t channels)
      : data_(static_cast<const T*>(pixels.data)),
        stride_(pixels.stride),
        ahead_(positions_of(channels) * pixels.stride) {}

  template <class Lanes>
  Vec<Sum<T>> load(int64_t position, int64_t channel, Lanes lanes) const {
    const T* at = data_ + position * stride_ + channel;
    __builtin_prefetch(at + ahead_);
    return load_lanes(at, lanes);
  }
  template <class Lanes>
  Vec<Sum<T>> load_again(int64_t position, int64_t channel, Lanes lanes) const {
    return load_lanes(data_ + position * stride_ + channel, lanes);
  }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  const T* data_;
  int64_t stride_, ahead_;
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

// The activation's argument, of input x.
template <class T, class Lanes>
inline Vec<Sum<T>> argument(const Channels<T>& channels, Vec<Sum<T>> x, const Rows<T>& residual,
                            int64_t position, int64_t c, Lanes lanes) {
  const Vec<Sum<T>> z = x * channels.scale + channels.shift;
  return residual ? z + residual.load(position, c, lanes) : z;
}

// Sums of term(position) over [begin, end): four at a time, as one addition would wait for the other.
template <class C, class Term>
inline Vec<C> sum_over(int64_t begin, int64_t end, const Term& term) {
  Vec<C> sums[4] = {};
  for (; begin + 4 <= end; begin += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums[j] += term(begin + j);
  }
  for (; begin < end; ++begin) sums[0] += term(begin);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class T>
void moments(const Pixels<void>& pixels, int64_t channels, int64_t begin, int64_t end, Sum<T>* result) {
  using C = Sum<T>;
  const Rows<T> input(pixels, channels);
  C* means = result;
  C* squares = result + channels;
  std::fill(result, result + 2 * channels, C(0));
  for_each_block<C>(channels, begin, end, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    const C block = static_cast<C>(stop - p), before = static_cast<C>(p - begin), after = before + block;
    const Vec<C> sum = sum_over<C>(p, stop, [&](int64_t i) { return input.load(i, c, lanes); });
    const Vec<C> block_mean = sum * (C(1) / block);
    const Vec<C> deviations = sum_over<C>(p, stop, [&](int64_t i) {
      const Vec<C> deviation = input.load_again(i, c, lanes) - block_mean;
      return deviation * deviation;
    });
    // Joins the moments of two sets of positions (Chan, Golub, LeVeque 1979).
    const Vec<C> mean = load_lanes(means + c, lanes), distance = block_mean - mean;
    store_lanes(means + c, mean + distance * (block / after), lanes);
    store_lanes(squares + c,
                load_lanes(squares + c, lanes) + deviations + distance * distance * (before * block / after),
                lanes);
  });
}

template <class T, class Kind>
void forward(const BatchNormAct& args, Kind activation, int64_t sample, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const Rows<T> input(args.input, args.channels), residual(args.residual, args.channels);
  T* output = static_cast<T*>(args.output);
  const bool past_caches = args.past_caches && can_pass_caches(output, args.channels);
  for_each_block<C>(args.channels, begin, end, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    const Channels<T> channels(args, sample, c, lanes);
    for (int64_t i = p; i < stop; ++i) {
      const Vec<C> z = argument<T>(channels, input.load(i, c, lanes), residual, i, c, lanes);
      store_lanes(output + i * args.channels + c, activate<T>(activation, z), lanes, past_caches);
    }
  });
  if (past_caches) finish_stores();
}

template <class T, class Kind>
void backward_sums(const BatchNormActBackward& args, Kind activation, int64_t sample, int64_t begin,
                   int64_t end, Sum<T>* sums) {
  using C = Sum<T>;
  const BatchNormAct& forward = args.forward;
  const Rows<T> input(forward.input, forward.channels), residual(forward.residual, forward.channels);
  const Rows<T> grad(args.grad_output, forward.channels);
  C* normalised_sums = sums + forward.channels;
  for_each_block<C>(forward.channels, begin, end, [&](int64_t c, auto lanes, int64_t p, int64_t stop) {
    const Channels<T> channels(forward, sample, c, lanes);
    Vec<C> sum = {}, sum_deviation = {};
    for (int64_t i = p; i < stop; ++i) {
      const Vec<C> x = input.load(i, c, lanes);
      const Vec<C> z = argument<T>(channels, x, residual, i, c, lanes);
      const Vec<C> g = times_slope<T>(activation, grad.load(i, c, lanes), z);
      sum += g;
      sum_deviation += g * (x - channels.mean);
    }
    store_lanes(sums + c, load_lanes(sums + c, lanes) + sum, lanes);
    store_lanes(normalised_sums + c,
                load_lanes(normalised_sums + c, lanes) + sum_deviation * channels.inverse_deviation, lanes);
  });
}

template <class T, class Kind>
void backward(const BatchNormActBackward& args, Kind activation, int64_t sample, int64_t begin, int64_t end) {
  using C = Sum<T>;
  const BatchNormAct& forward = args.forward;
  const Rows<T> input(forward.input, forward.channels), residual(forward.residual, forward.channels);
  const Rows<T> grad(args.grad_output, forward.channels);
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
      const Vec<C> x = input.load(i, c, lanes);
      const Vec<C> z = argument<T>(channels, x, residual, i, c, lanes);
      const Vec<C> g = times_slope<T>(activation, grad.load(i, c, lanes), z);
      if (grad_residual) store_lanes(grad_residual + at, g, lanes, past_caches);
      const Vec<C> grad_x = channels.scale * g - constant - (x - channels.mean) * of_deviation;
      store_lanes(grad_input + at, grad_x, lanes, past_caches);
    }
  });
  if (past_caches) finish_stores();
}

template <Activation activation>
using Constant = std::integral_constant<Activation, activation>;

// Calls body(null pointer to the element type, activation); for float the activations that cost least are
// constants.
template <class Body>
void dispatch(const BatchNormAct& args, const Body& body) {
  if (args.dtype == DType::kFloat32) {
    const float* type = nullptr;
    if (args.activation == Activation::kIdentity) return body(type, Constant<Activation::kIdentity>{});
    if (args.activation == Activation::kRelu) return body(type, Constant<Activation::kRelu>{});
    if (args.activation == Activation::kRelu6) return body(type, Constant<Activation::kRelu6>{});
  }
  dispatch_dtype(args.dtype, [&](auto* type) { body(type, args.activation); });
}

template <class Pointer>
using ElementOf = std::remove_const_t<std::remove_pointer_t<Pointer>>;

}  // namespace

void batch_norm_moments(DType dtype, const Pixels<void>& input, int64_t channels, int64_t begin, int64_t end,
                        void* result) {
  dispatch_dtype(dtype, [&](auto* type) {
    using T = ElementOf<decltype(type)>;
    moments<T>(input, channels, begin, end, static_cast<Sum<T>*>(result));
  });
}

void batch_norm_act(const BatchNormAct& args, int64_t sample, int64_t begin, int64_t end) {
  dispatch(args, [&](auto* type, auto activation) {
    forward<ElementOf<decltype(type)>>(args, activation, sample, begin, end);
  });
}

void batch_norm_act_sums(const BatchNormActBackward& args, int64_t sample, int64_t begin, int64_t end,
                         void* sums) {
  dispatch(args.forward, [&](auto* type, auto activation) {
    using T = ElementOf<decltype(type)>;
    backward_sums<T>(args, activation, sample, begin, end, static_cast<Sum<T>*>(sums));
  });
}

void batch_norm_act_backward(const BatchNormActBackward& args, int64_t sample, int64_t begin, int64_t end) {
  dispatch(args.forward, [&](auto* type, auto activation) {
    backward<ElementOf<decltype(type)>>(args, activation, sample, begin, end);
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
