// Geometry of a two-dimensional convolution in channels_last memory: sizes, and which taps reach which
// positions.
#pragma once

#include <algorithm>
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

// Which taps reach which positions of an axis, without regard to its ends: destinations first, first + step,
// ... (count of them) use the same taps; tap t of destination j reads source taps[t].source + j *
// source_step, which may lie outside the axis, in the padding.
struct AxisTap {
  int64_t tap, source;
};

struct AxisSegment {
  int64_t first, step, count, source_step;
  std::vector<AxisTap> taps;
};

// Segments that cover an axis. Forward, destinations are outputs and sources inputs; transposed (for the
// gradient of the input), destinations are inputs and sources outputs. Both directions then run the same
// kernel.
inline std::vector<AxisSegment> forward_segments(const ConvAxis& axis) {
  AxisSegment segment{0, 1, axis.output, axis.stride, {}};
  for (int64_t k = 0; k < axis.kernel; ++k) segment.taps.push_back({k, k * axis.dilation - axis.padding});
  return {segment};
}

inline std::vector<AxisSegment> transposed_segments(const ConvAxis& axis) {
  std::vector<AxisSegment> segments;
  // Inputs that are a stride apart see the same taps, one output further.
  for (int64_t residue = 0; residue < std::min(axis.stride, axis.input); ++residue) {
    AxisSegment segment{residue, axis.stride, (axis.input - residue + axis.stride - 1) / axis.stride, 1, {}};
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t reach = residue + axis.padding - k * axis.dilation;
      if (reach % axis.stride == 0) segment.taps.push_back({k, reach / axis.stride});
    }
    segments.push_back(segment);
  }
  return segments;
}

}  // namespace kshot
