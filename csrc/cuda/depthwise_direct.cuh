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

// A GatherAxis in 32 bits, for quicker divisions.
struct DirectAxis {
  int source, target, kernel, stride, padding, dilation;
  bool transposed;

  explicit DirectAxis(const GatherAxis& axis)
      : source(static_cast<int>(axis.source)),
        target(static_cast<int>(axis.target)),
        kernel(static_cast<int>(axis.kernel)),
        stride(static_cast<int>(axis.stride)),
        padding(static_cast<int>(axis.padding)),
        dilation(static_cast<int>(axis.dilation)),
        transposed(axis.transposed) {}

  // The source that tap `k` joins with target `o`; -1 where there is none.
  __device__ __forceinline__ int source_of(int o, int k) const {
    int at = o * stride - padding + k * dilation;
    if (transposed) {
      const int reach = o + padding - k * dilation;
      if (reach < 0 || reach % stride != 0) return -1;
      at = reach / stride;
    }
    return at < source ? at : -1;
  }
};

// Of a launch: which block does what.
struct DirectGather {
  DepthwiseGather args;
  DirectAxis height, width;
  BlockShape block;
  int channel_blocks, position_blocks, positions_per_block;
};

template <class T, bool channels_last>
__global__ void __launch_bounds__(kMostThreads, 2) depthwise_direct_gather(const DirectGather plan) {
  using C = Sum<T>;
  KSHOT_DYNAMIC_SHARED(C, block_taps);
  const DepthwiseGather& args = plan.args;
  const DirectAxis &height = plan.height, &width = plan.width;
  const int channels = static_cast<int>(args.channels);
  const unsigned positions_and_sample = blockIdx.x / static_cast<unsigned>(plan.channel_blocks);
  const int first_channel =
      static_cast<int>(blockIdx.x % static_cast<unsigned>(plan.channel_blocks)) * plan.block.channels;
  const int64_t n = positions_and_sample / static_cast<unsigned>(plan.position_blocks);
  const int tap_count = height.kernel * width.kernel;
  const DictionaryPart<T> part{args.weight, first_channel, plan.block.channels, channels, tap_count};
  mix_taps<T>(block_taps, part, nullptr, n, args.turned);
  __syncthreads();

  const Lane lane = lane_of_thread<channels_last>(plan.block);
  const int channel = first_channel + lane.channel;
  if (channel >= channels) return;
  const C* taps = block_taps + lane.channel * tap_pitch(tap_count);
  const ImageStrides<channels_last> strides(args.source.stride, height.source, width.source),
      target_strides(channels, height.target, width.target);
  const int target_size = height.target * width.target;
  const T* source = static_cast<const T*>(args.source.data) +
                    n * height.source * width.source * args.source.stride + channel * strides.channel;
  T* target = static_cast<T*>(args.target) + n * target_size * channels + channel * target_strides.channel;
  C bias = 0;
  if (args.bias != nullptr) bias = static_cast<const C*>(args.bias)[n * args.bias_stride + channel];
  const int begin = static_cast<int>(positions_and_sample % static_cast<unsigned>(plan.position_blocks)) *
                    plan.positions_per_block,
            end = min(begin + plan.positions_per_block, target_size);
  for (int p = begin + lane.position; p < end; p += 1 << plan.block.position_lanes_log2) {
    const int y = p / width.target, x = p % width.target;
    C sum = bias;
    for (int ky = 0; ky < height.kernel; ++ky) {
      const int source_y = height.source_of(y, ky);
      if (source_y < 0) continue;
      const T* row = source + source_y * strides.row;
      for (int kx = 0; kx < width.kernel; ++kx) {
        const int source_x = width.source_of(x, kx);
        if (source_x < 0) continue;
        sum += taps[ky * width.kernel + kx] * to_sum(row[source_x * strides.column]);
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
__global__ void __launch_bounds__(kMostThreads, 2)
    depthwise_direct_weight_gradient(const DepthwiseWeightGradient args, const DirectAxis height,
                                     const DirectAxis width, const BlockShape block, int channel_blocks,
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
  const ImageStrides<channels_last> strides(args.input.stride, height.source, width.source),
      grad_strides(args.grad_output.stride, height.target, width.target);
  const int target_size = height.target * width.target;
  const int64_t input_sample = static_cast<int64_t>(height.source) * width.source * args.input.stride,
                grad_sample = target_size * args.grad_output.stride;
  const T* input = static_cast<const T*>(args.input.data) + channel * strides.channel;
  const T* grad = static_cast<const T*>(args.grad_output.data) + channel * grad_strides.channel;
  const int tap_count = height.kernel * width.kernel;
  C* partial = static_cast<C*>(args.workspace) + (piece_index * channels + channel) * (tap_count + 1);
  for (int tap = 0; tap <= tap_count; ++tap) {
    C sum = 0;
    const int64_t last = channel < channels ? end : begin;
    for (int64_t item = begin + lane.position; item < last; item += int64_t{1} << block.position_lanes_log2) {
      const int64_t n = item / target_size;
      const int p = static_cast<int>(item - n * target_size);
      const C value = to_sum(grad[n * grad_sample + p * grad_strides.column]);
      if (tap == tap_count) {
        sum += value;
        continue;
      }
      const int y = height.source_of(p / width.target, tap / width.kernel),
                x = width.source_of(p % width.target, tap % width.kernel);
      if (y < 0 || x < 0) continue;
      sum += value * to_sum(input[n * input_sample + y * strides.row + x * strides.column]);
    }
    sum = sum_of_positions<channels_last>(sum, scratch, block, lane);
    if (lane.position == 0 && channel < channels) partial[tap] = sum;
  }
}

}  // namespace
}  // namespace kshot::cuda
