// Which taps of a convolution reach which targets, as the kernels take it: arithmetic progressions.
#pragma once

#include "common/conv_geometry.h"
#include "cuda/division.cuh"

namespace kshot::cuda {

// Targets first + j * step, j < count, of one axis use the taps first_tap + a * tap_step, a < taps; tap a of
// target j reads source first_source + j * source_step + a * source_tap_step, or the padding outside the
// axis.
struct DenseAxis {
  int32_t first, step, count;
  int32_t taps, first_tap, tap_step;
  int32_t first_source, source_step, source_tap_step;

  DenseAxis() = default;
  // The taps of a segment are evenly spaced: stride / gcd(stride, dilation) apart when transposed.
  explicit DenseAxis(const AxisSegment& segment)
      : first(static_cast<int32_t>(segment.first)),
        step(static_cast<int32_t>(segment.step)),
        count(static_cast<int32_t>(segment.count)),
        taps(static_cast<int32_t>(segment.taps.size())),
        first_tap(0),
        tap_step(0),
        first_source(0),
        source_step(static_cast<int32_t>(segment.source_step)),
        source_tap_step(0) {
    if (taps > 0) {
      first_tap = static_cast<int32_t>(segment.taps[0].tap);
      first_source = static_cast<int32_t>(segment.taps[0].source);
    }
    if (taps > 1) {
      tap_step = static_cast<int32_t>(segment.taps[1].tap) - first_tap;
      source_tap_step = static_cast<int32_t>(segment.taps[1].source) - first_source;
    }
  }
};

// Targets of an image that use the same taps. A *place* is such a target, in row order; an index of the
// *reduction* is a pair (tap, channel of the source), channels innermost.
struct DensePlaces {
  DenseAxis height, width;
  FastDivisor per_sample, per_row, channels, taps_per_row;
  int32_t count;      // places of one sample
  int32_t reduction;  // taps * channels

  DensePlaces() = default;
  DensePlaces(const AxisSegment& height_segment, const AxisSegment& width_segment, int64_t source_channels)
      : height(height_segment),
        width(width_segment),
        per_sample(height_segment.count * width_segment.count),
        per_row(width_segment.count),
        channels(source_channels),
        taps_per_row(width.taps),
        count(height.count * width.count),
        reduction(static_cast<int32_t>(height.taps * width.taps * source_channels)) {}
};

// One index of the reduction: how far its source lies from the source of the place's first tap, and the tap
// in the weight.
struct DenseTap {
  int32_t y, x, channel, kernel_y, kernel_x;
};

__device__ __forceinline__ DenseTap tap_of(const DensePlaces& places, int32_t index) {
  const int32_t tap = places.channels.quotient(index);
  const int32_t row = places.taps_per_row.quotient(tap), column = places.taps_per_row.remainder(tap, row);
  return {row * places.height.source_tap_step, column * places.width.source_tap_step,
          places.channels.remainder(index, tap), places.height.first_tap + row * places.height.tap_step,
          places.width.first_tap + column * places.width.tap_step};
}

// A place as sample and coordinates in the grid of places, counted on from place 0 of some sample.
struct DensePlace {
  int32_t sample, row, column;
};

__device__ __forceinline__ DensePlace place_of(const DensePlaces& places, int32_t index) {
  const int32_t sample = places.per_sample.quotient(index);
  const int32_t place = places.per_sample.remainder(index, sample);
  const int32_t row = places.per_row.quotient(place);
  return {sample, row, places.per_row.remainder(place, row)};
}

}  // namespace kshot::cuda
