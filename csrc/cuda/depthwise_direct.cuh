// Depthwise convolution of any kernel, stride, dilation and element type; its equations are those of
// depthwise_gather.cuh and depthwise_weight_gradient.cuh.
//
// A block owns some channels of a sample (of all samples for the gradient of the weight) and a run of target
// positions; channels and positions are spread over its threads so that neighbours are neighbours in memory.
// A thread makes a target by itself and reads the sources from global memory, as often as taps reach them:
// the caches serve all but the first read. Bound by these reads, several times the least time; no layer of
// the usual search spaces comes here but in double precision.
#pragma once

#include "cuda/depthwise_direct.h"
#include "cuda/depthwise_taps.cuh"
#include "cuda/depthwise_tile.cuh"

namespace kshot::cuda {
namespace {

// The source that tap `k` joins with target `o`; -1 where there is none.
__device__ __forceinline__ int64_t source_of(const GatherAxis& axis, int64_t o, int64_t k) {
  int64_t source = o * axis.stride - axis.padding + k * axis.dilation;
  if (axis.transposed) {
    const int64_t reach = o + axis.padding - k * axis.dilation;
    if (reach < 0 || reach % axis.stride != 0) return -1;
    source = reach / axis.stride;
  }
  return source < axis.source ? source : -1;
}

template <class T, bool channels_last>
__global__ void __launch_bounds__(kMostThreads)
    depthwise_direct_gather(const DepthwiseGather args, const BlockShape block, int channel_blocks,
                            int64_t position_blocks, int64_t positions_per_block) {
  using C = Sum<T>;
  KSHOT_DYNAMIC_SHARED(C, block_taps);
  const int channels = static_cast<int>(args.channels);
  const int first_channel =
      static_cast<int>(blockIdx.x % static_cast<unsigned>(channel_blocks)) * block.channels;
  const int64_t positions_and_sample = blockIdx.x / static_cast<unsigned>(channel_blocks);
  const int64_t n = positions_and_sample / position_blocks;
  const int tap_count = static_cast<int>(args.height.kernel * args.width.kernel);
  mix_taps<T>(block_taps, args.weight, n, first_channel, block.channels, channels, tap_count, args.turned);
  __syncthreads();

  const Lane lane = lane_of_thread<channels_last>(block);
  const int channel = first_channel + lane.channel;
  if (channel >= channels) return;
  const C* taps = block_taps + lane.channel * tap_pitch(tap_count);
  const ImageStrides<channels_last> strides(channels, static_cast<int>(args.height.source),
                                            static_cast<int>(args.width.source));
  const ImageStrides<channels_last> target_strides(channels, static_cast<int>(args.height.target),
                                                   static_cast<int>(args.width.target));
  const int64_t target_size = args.height.target * args.width.target;
  const T* source = static_cast<const T*>(args.source) +
                    n * args.height.source * args.width.source * channels + channel * strides.channel;
  T* target = static_cast<T*>(args.target) + n * target_size * channels + channel * target_strides.channel;
  C bias = 0;
  if (args.bias != nullptr) bias = to_sum(static_cast<const T*>(args.bias)[n * args.bias_stride + channel]);
  const int64_t begin = positions_and_sample % position_blocks * positions_per_block,
                end = min(begin + positions_per_block, target_size);
  for (int64_t p = begin + lane.position; p < end; p += int64_t{1} << block.position_lanes_log2) {
    const int64_t y = p / args.width.target, x = p % args.width.target;
    C sum = bias;
    for (int64_t ky = 0; ky < args.height.kernel; ++ky) {
      const int64_t source_y = source_of(args.height, y, ky);
      if (source_y < 0) continue;
      for (int64_t kx = 0; kx < args.width.kernel; ++kx) {
        const int64_t source_x = source_of(args.width, x, kx);
        if (source_x < 0) continue;
        sum += taps[ky * args.width.kernel + kx] *
               to_sum(source[source_y * strides.row + source_x * strides.column]);
      }
    }
    target[p * target_strides.column] = from_sum<T>(sum);
  }
}

// The sum over the threads of a channel, for its threads of position 0; `scratch` has an element per thread.
template <bool channels_last, class C>
__device__ __forceinline__ C sum_of_positions(C value, C* scratch, const BlockShape& block,
                                              const Lane& lane) {
  const int thread = static_cast<int>(threadIdx.x),
            neighbour = channels_last ? 1 << block.channel_lanes_log2 : 1;
  __syncthreads();  // after the last use of the scratch memory
  scratch[thread] = value;
  __syncthreads();
  for (int half = (1 << block.position_lanes_log2) / 2; half > 0; half /= 2) {
    if (lane.position < half) scratch[thread] += scratch[thread + half * neighbour];
    __syncthreads();
  }
  return scratch[thread];
}

template <class T, bool channels_last>
__global__ void __launch_bounds__(kMostThreads)
    depthwise_direct_weight_gradient(const DepthwiseWeightGradient args, const GatherAxis height,
                                     const GatherAxis width, const BlockShape block, int channel_blocks,
                                     const WeightGradientPieces pieces) {
  using C = Sum<T>;
  KSHOT_DYNAMIC_SHARED(C, scratch);
  const int channels = static_cast<int>(args.geometry.in_channels);
  const int first_channel =
      static_cast<int>(blockIdx.x % static_cast<unsigned>(channel_blocks)) * block.channels;
  const int64_t piece_index = blockIdx.x / static_cast<unsigned>(channel_blocks);
  const int64_t group = piece_index / pieces.pieces, piece = piece_index % pieces.pieces;
  const int64_t begin = group * pieces.items + piece * pieces.items / pieces.pieces,
                end = group * pieces.items + (piece + 1) * pieces.items / pieces.pieces;
  const Lane lane = lane_of_thread<channels_last>(block);
  const int channel = first_channel + lane.channel;
  const ImageStrides<channels_last> strides(channels, static_cast<int>(height.source),
                                            static_cast<int>(width.source));
  const ImageStrides<channels_last> grad_strides(channels, static_cast<int>(height.target),
                                                 static_cast<int>(width.target));
  const int64_t input_sample = height.source * width.source * channels,
                target_size = height.target * width.target;
  const T* input = static_cast<const T*>(args.input) + channel * strides.channel;
  const T* grad = static_cast<const T*>(args.grad_output) + channel * grad_strides.channel;
  const int tap_count = static_cast<int>(height.kernel * width.kernel);
  C* partial = static_cast<C*>(args.workspace) + (piece_index * channels + channel) * (tap_count + 1);
  for (int tap = 0; tap <= tap_count; ++tap) {
    C sum = 0;
    const int64_t last = channel < channels ? end : begin;
    for (int64_t item = begin + lane.position; item < last; item += int64_t{1} << block.position_lanes_log2) {
      const int64_t n = item / target_size, p = item % target_size;
      const C value = to_sum(grad[n * target_size * channels + p * grad_strides.column]);
      if (tap == tap_count) {
        sum += value;
        continue;
      }
      const int64_t y = source_of(height, p / width.target, tap / width.kernel),
                    x = source_of(width, p % width.target, tap % width.kernel);
      if (y < 0 || x < 0) continue;
      sum += value * to_sum(input[n * input_sample + y * strides.row + x * strides.column]);
    }
    sum = sum_of_positions<channels_last>(sum, scratch, block, lane);
    if (lane.position == 0 && channel < channels) partial[tap] = sum;
  }
}

}  // namespace
}  // namespace kshot::cuda
