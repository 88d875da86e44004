// Geometry of a two-dimensional convolution in channels_last memory: sizes, and which taps reach which positions.
#pragma once

#include <cstdint>
#include <vector>

namespace kshot {

// One spatial axis of a convolution: output o and tap k meet at input o * stride - padding + k * dilation.
struct ConvAxis {
  int64_t input, output, kernel, stride, padding, dilation;
};

struct ConvGeometry {
  int64_t batch;
  int64_t in_channels, out_channels;  // active ones
  ConvAxis height, width;

  int64_t taps() const { return height.kernel * width.kernel; }
  int64_t input_size() const { return height.input * width.input * in_channels; }      // elements per sample
  int64_t output_size() const { return height.output * width.output * out_channels; }  // elements per sample
};

// A tap and the source position it reads.
struct AxisTap {
  int64_t tap, source;
};

// Destination positions first, first + step, ... (count of them) that all use the same taps; from one to the next
// every source moves by source_step.
struct AxisSegment {
  int64_t first, step, count, source_step;
  std::vector<AxisTap> taps;  // sources for the first position
};

// Segments that cover an axis. Forward, destinations are outputs and sources inputs; transposed (for the gradient
// of the input), destinations are inputs and sources outputs. Both directions then run the same kernel.
std::vector<AxisSegment> forward_segments(const ConvAxis& axis);
std::vector<AxisSegment> transposed_segments(const ConvAxis& axis);

}  // namespace kshot
