// Derivatives of batch norm, residual and activation (see batch_norm_act.cuh). With g = dL/doutput *
// activation'(z) and xhat = (x - mean) * inverse_deviation:
//
//     dL/dresidual = g      dL/dbias = sum g      dL/dweight = sum g * xhat
//     dL/dx = inverse_deviation * (weight * g - A - xhat * B)
//
// where A and B are the means over positions of weight * g and weight * g * xhat (zero for fixed statistics,
// whose gradients one pass makes with the sums).
// First the sums: blocks and threads as in channel_tile.cuh, threads of the same channels added up in pairs,
// a row of sums per piece in scratch memory, which small kernels add up in order. Then the gradients, in a
// pass of its own that makes g anew, as storing it would cost more. Bound by bytes: each of the two passes
// reads input, residual and dL/doutput once, the second writes its results once.
#pragma once

#include "cuda/batch_norm_act.cuh"
#include "cuda/column_sums.cuh"

namespace kshot::cuda {
namespace {

constexpr int kMeanThreads = 128;

// Writes the gradients as well if `stores`: for fixed statistics these do not wait for the sums.
template <class T, bool stores, int lanes>
__global__ void __launch_bounds__(kChannelThreads, lanes == 8 ? 2 : 3)
    gradient_sums_kernel(const ChannelTiling tiling, const BatchNormActBackward args) {
  using C = Sum<T>;
  constexpr int kAtOnce = kPositionsAtOnce / 2, kSlots = kSumSlots<lanes>, kSlab = kSlabChannels<T, lanes>;
  __shared__ C sums[2 * lanes][kSlots];
  alignas(kVectorBytes) __shared__ C factors[kSlab], shifts[kSlab], means[kSlab], deviations[kSlab];
  const ChannelPart part(tiling, blockIdx.x);
  for_slab_channels<T, lanes>(args.forward, tiling, part.sample, [&](int at, const ChannelValues<C>& values) {
    factors[at] = values.factor;
    shifts[at] = values.shift;
    means[at] = values.mean;
    deviations[at] = values.inverse_deviation;
  });
  C sum[2 * lanes] = {};
  if (part.active) {
    C factor[lanes], shift[lanes], mean[lanes];
    load_slab<T, lanes>(factor, factors, part);
    load_slab<T, lanes>(shift, shifts, part);
    load_slab<T, lanes>(mean, means, part);
    const T* input = static_cast<const T*>(args.forward.input.data) + part.channel;
    const T* residual = static_cast<const T*>(args.forward.residual.data);
    const T* grad = static_cast<const T*>(args.grad_output.data) + part.channel;
    if (residual) residual += part.channel;
    T* grad_input = static_cast<T*>(args.grad_input) + part.channel;
    T* grad_residual = static_cast<T*>(args.grad_residual);
    if (grad_residual) grad_residual += part.channel;
    for (int64_t first = part.first; first < part.end; first += kAtOnce * part.step) {
      C x[kAtOnce][lanes], z[kAtOnce][lanes], g[kAtOnce][lanes];
#pragma unroll
      for (int b = 0; b < kAtOnce; ++b) {
        const int64_t p = first + b * part.step;
        if (p < part.end) {
          load_lanes<T, lanes>(x[b], input + p * args.forward.input.stride);
          load_lanes<T, lanes>(g[b], grad + p * args.grad_output.stride);
          argument<T, lanes>(z[b], x[b], factor, shift,
                             residual ? residual + p * args.forward.residual.stride : nullptr);
        }
      }
#pragma unroll
      for (int b = 0; b < kAtOnce; ++b) {
        if (first + b * part.step < part.end) {
          times_slope(args.forward.activation, g[b], z[b]);
#pragma unroll
          for (int i = 0; i < lanes; ++i) {
            sum[i] += g[b][i];
            sum[lanes + i] += g[b][i] * (x[b][i] - mean[i]);
          }
          if constexpr (stores) {
            const int64_t at = (first + b * part.step) * tiling.channels;
            if (grad_residual) store_channels<T, lanes>(grad_residual + at, g[b]);
#pragma unroll
            for (int i = 0; i < lanes; ++i) g[b][i] *= factor[i];
            store_channels<T, lanes>(grad_input + at, g[b]);
          }
        }
      }
    }
    C deviation[lanes];
    load_slab<T, lanes>(deviation, deviations, part);
#pragma unroll
    for (int i = 0; i < lanes; ++i) sum[lanes + i] *= deviation[i];
  }
  for (int rows = tiling.rows; rows > 1;) {
    const int half = (rows + 1) / 2;
    if (part.active && part.row >= half && part.row < rows) {
#pragma unroll
      for (int i = 0; i < 2 * lanes; ++i) {
        sums[i][(part.row - half) * tiling.slab_vectors + part.vector] = sum[i];
      }
    }
    __syncthreads();
    if (part.active && part.row + half < rows) {
#pragma unroll
      for (int i = 0; i < 2 * lanes; ++i) sum[i] += sums[i][part.row * tiling.slab_vectors + part.vector];
    }
    __syncthreads();
    rows = half;
  }
  if (part.active && part.row == 0) {
#pragma unroll
    for (int i = 0; i < 2 * lanes; ++i) sums[i][part.vector] = sum[i];
  }
  __syncthreads();
  C* to = static_cast<C*>(args.workspace) + (part.sample * tiling.pieces + part.piece) * 2 * tiling.channels;
  store_slab<lanes>(tiling, to, sums);
  store_slab<lanes>(tiling, to + tiling.channels, sums + lanes);
}

// A thread owns one of the 2 C means.
template <class C>
__global__ void __launch_bounds__(kMeanThreads) mean_gradients_kernel(const BatchNormActBackward args) {
  const int channels = static_cast<int>(args.forward.channels);
  const int i = static_cast<int>(blockIdx.x * kMeanThreads + threadIdx.x);
  if (i >= 2 * channels) return;
  const int channel = i < channels ? i : i - channels;
  const C* weight = static_cast<const C*>(args.forward.weight);
  C total = 0;
  for (int64_t n = 0; n < args.forward.samples; ++n) {
    const C sum = static_cast<const C*>(args.sums)[n * 2 * channels + i];
    total += weight ? weight[n * args.forward.weight_stride + channel] * sum : sum;
  }
  const int64_t positions = args.forward.samples * args.forward.positions_per_sample;
  static_cast<C*>(args.mean_grads)[i] = positions > 0 ? total / static_cast<C>(positions) : C(0);
}

template <class T, int lanes>
__global__ void __launch_bounds__(kChannelThreads, 2)
    batch_norm_act_backward_kernel(const ChannelTiling tiling, const BatchNormActBackward args) {
  using C = Sum<T>;
  constexpr int kAtOnce = kPositionsAtOnce / 2, kSlab = kSlabChannels<T, lanes>;
  alignas(kVectorBytes) __shared__ C factors[kSlab], shifts[kSlab], slopes[kSlab], constants[kSlab];
  const ChannelPart part(tiling, gridDim.x - 1 - blockIdx.x);
  // dL/dx = factor * g - slope * x - constant
  for_slab_channels<T, lanes>(args.forward, tiling, part.sample, [&](int at, const ChannelValues<C>& values) {
    const C* means = static_cast<const C*>(args.mean_grads);
    const C of_g = means[values.channel], of_normalised = means[tiling.channels + values.channel];
    const C slope = values.inverse_deviation * values.inverse_deviation * of_normalised;
    factors[at] = values.factor;
    shifts[at] = values.shift;
    slopes[at] = slope;
    constants[at] = values.inverse_deviation * of_g - values.mean * slope;
  });
  if (!part.active) return;
  C factor[lanes], shift[lanes], slope[lanes], constant[lanes];
  load_slab<T, lanes>(factor, factors, part);
  load_slab<T, lanes>(shift, shifts, part);
  load_slab<T, lanes>(slope, slopes, part);
  load_slab<T, lanes>(constant, constants, part);
  const T* input = static_cast<const T*>(args.forward.input.data) + part.channel;
  const T* residual = static_cast<const T*>(args.forward.residual.data);
  const T* grad = static_cast<const T*>(args.grad_output.data) + part.channel;
  T* grad_input = static_cast<T*>(args.grad_input) + part.channel;
  T* grad_residual = static_cast<T*>(args.grad_residual);
  if (residual) residual += part.channel;
  if (grad_residual) grad_residual += part.channel;
  for (int64_t first = part.first; first < part.end; first += kAtOnce * part.step) {
    C x[kAtOnce][lanes], z[kAtOnce][lanes], g[kAtOnce][lanes];
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b) {
      const int64_t p = first + b * part.step;
      if (p < part.end) {
        load_lanes<T, lanes>(x[b], input + p * args.forward.input.stride);
        load_lanes<T, lanes>(g[b], grad + p * args.grad_output.stride);
        argument<T, lanes>(z[b], x[b], factor, shift,
                           residual ? residual + p * args.forward.residual.stride : nullptr);
      }
    }
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b) {
      const int64_t p = first + b * part.step;
      if (p < part.end) {
        times_slope(args.forward.activation, g[b], z[b]);
        if (grad_residual) store_channels<T, lanes>(grad_residual + p * tiling.channels, g[b]);
#pragma unroll
        for (int i = 0; i < lanes; ++i) x[b][i] = factor[i] * g[b][i] - (slope[i] * x[b][i] + constant[i]);
        store_channels<T, lanes>(grad_input + p * tiling.channels, x[b]);
      }
    }
  }
}

}  // namespace
}  // namespace kshot::cuda
