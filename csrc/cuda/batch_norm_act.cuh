// Batch norm, residual and activation, channels_last:
//
//     z = (x - mean) * inverse_deviation * weight + bias + residual        output = activation(z)
//
// with inverse_deviation = 1 / sqrt(variance + eps). z is linear in x, so a factor and a shift per channel
// serve; a block makes those of its slab once (see channel_tile.cuh) and its threads then walk over
// positions. Pieces are taken from the last to the first: what the moments read last may still be in the
// caches. Bound by bytes: input and residual are read once, the output is written once.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/channel_tile.cuh"

namespace kshot::cuda {
namespace {

constexpr int kPositionsAtOnce = 4;  // loads in flight per thread and tensor

// The most channels of a slab.
template <class T, int lanes>
constexpr int kSlabChannels = lanes == 1 ? kChannelThreads : 64 * lanes;

// A slab's values in shared memory lie so that the reads of neighbouring threads do: where a thread's vector
// takes two reads of 16 bytes, all first halves come before all second ones.
template <class T, int lanes>
struct SlabLayout {
  static constexpr int kLanes = lanes == 1 ? 1 : kVectorLanes<Sum<T>>, kParts = lanes / kLanes;
  static constexpr int kPartSize = kSlabChannels<T, lanes> / kParts;

  static __device__ __forceinline__ int at(int channel) {
    return channel / kLanes % kParts * kPartSize + channel / lanes * kLanes + channel % kLanes;
  }
};

// What the passes over positions need of a channel.
template <class C>
struct ChannelValues {
  int channel;
  C mean, inverse_deviation, factor, shift;  // z = x * factor + shift + residual

  __device__ __forceinline__ ChannelValues(const BatchNormAct& args, int64_t sample, int own) : channel(own) {
    const auto value = [&](const void* values, int64_t at, C otherwise) {
      return values ? static_cast<const C*>(values)[at] : otherwise;
    };
    mean = static_cast<const C*>(args.mean)[channel];
    inverse_deviation = C(1) / sqrt(static_cast<const C*>(args.variance)[channel] + static_cast<C>(args.eps));
    factor = inverse_deviation * value(args.weight, sample * args.weight_stride + channel, C(1));
    shift = value(args.bias, sample * args.bias_stride + channel, C(0)) - mean * factor;
  }
};

// Calls body(place in a slab's arrays, values of the channel) for the channels of a block's slab, spread over
// its threads. Followed by a barrier.
template <class T, int lanes, class Body>
__device__ __forceinline__ void for_slab_channels(const BatchNormAct& args, const ChannelTiling& tiling,
                                                  int64_t sample, const Body& body) {
  const int first = static_cast<int>(blockIdx.y) * tiling.slab_channels();
  const int count = min(tiling.slab_channels(), tiling.channels - first);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kChannelThreads) {
    body(SlabLayout<T, lanes>::at(i), ChannelValues<Sum<T>>(args, sample, first + i));
  }
  __syncthreads();
}

// A thread's own values, from the array of its slab.
template <class T, int lanes>
__device__ __forceinline__ void load_slab(Sum<T> (&to)[lanes], const Sum<T>* slab, const ChannelPart& part) {
  using Layout = SlabLayout<T, lanes>;
#pragma unroll
  for (int p = 0; p < Layout::kParts; ++p) {
    Sum<T> values[Layout::kLanes];
    load_lanes<Sum<T>, Layout::kLanes>(values, slab + p * Layout::kPartSize + part.vector * Layout::kLanes);
#pragma unroll
    for (int i = 0; i < Layout::kLanes; ++i) to[p * Layout::kLanes + i] = values[i];
  }
}

// z of one position
template <class T, int lanes>
__device__ __forceinline__ void argument(Sum<T> (&z)[lanes], const Sum<T> (&x)[lanes],
                                         const Sum<T> (&factor)[lanes], const Sum<T> (&shift)[lanes],
                                         const T* residual) {
#pragma unroll
  for (int i = 0; i < lanes; ++i) z[i] = x[i] * factor[i] + shift[i];
  if (residual) {
    Sum<T> r[lanes];
    load_lanes<T, lanes>(r, residual);
#pragma unroll
    for (int i = 0; i < lanes; ++i) z[i] += r[i];
  }
}

template <class T, int lanes>
__global__ void __launch_bounds__(kChannelThreads, 3)
    batch_norm_act_kernel(const ChannelTiling tiling, const BatchNormAct args) {
  using C = Sum<T>;
  alignas(kVectorBytes) __shared__ C factors[kSlabChannels<T, lanes>], shifts[kSlabChannels<T, lanes>];
  const ChannelPart part(tiling, gridDim.x - 1 - blockIdx.x);
  for_slab_channels<T, lanes>(args, tiling, part.sample, [&](int at, const ChannelValues<C>& values) {
    factors[at] = values.factor;
    shifts[at] = values.shift;
  });
  if (!part.active) return;
  C factor[lanes], shift[lanes];
  load_slab<T, lanes>(factor, factors, part);
  load_slab<T, lanes>(shift, shifts, part);
  const T* input = static_cast<const T*>(args.input.data) + part.channel;
  const T* residual = static_cast<const T*>(args.residual.data);
  if (residual) residual += part.channel;
  T* output = static_cast<T*>(args.output) + part.channel;
  for (int64_t first = part.first; first < part.end; first += kPositionsAtOnce * part.step) {
    C z[kPositionsAtOnce][lanes];
#pragma unroll
    for (int b = 0; b < kPositionsAtOnce; ++b) {
      const int64_t p = first + b * part.step;
      if (p < part.end) {
        C x[lanes];
        load_lanes<T, lanes>(x, input + p * args.input.stride);
        argument<T, lanes>(z[b], x, factor, shift, residual ? residual + p * args.residual.stride : nullptr);
      }
    }
#pragma unroll
    for (int b = 0; b < kPositionsAtOnce; ++b) {
      const int64_t p = first + b * part.step;
      if (p < part.end) {
        activate(args.activation, z[b]);
        store_channels<T, lanes>(output + p * tiling.channels, z[b]);
      }
    }
  }
}

}  // namespace
}  // namespace kshot::cuda
