// Geometry of a two-dimensional convolution in channels_last memory: sizes, and which taps reach which
// positions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
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

// Destination positions first, first + step, ... (count of them) that all use the same taps; from one to the
// next every source moves by source_step.
struct AxisSegment {
  int64_t first, step, count, source_step;
  std::vector<AxisTap> taps;  // sources for the first position
};

namespace detail {

// Joins destinations first, first + step, ... with equal taps into segments; `taps_of` lists the taps of one.
template <class TapsOf>
void append_segments(std::vector<AxisSegment>& segments, int64_t first, int64_t end, int64_t step,
                     int64_t source_step, const TapsOf& taps_of) {
  const auto same_taps = [](const std::vector<AxisTap>& a, const std::vector<AxisTap>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const AxisTap& s, const AxisTap& t) { return s.tap == t.tap; });
  };
  for (int64_t position = first; position < end; position += step) {
    std::vector<AxisTap> taps = taps_of(position);
    if (position > first && same_taps(segments.back().taps, taps)) {
      ++segments.back().count;
    } else {
      segments.push_back({position, step, 1, source_step, std::move(taps)});
    }
  }
}

}  // namespace detail

// Segments that cover an axis. Forward, destinations are outputs and sources inputs; transposed (for the
// gradient of the input), destinations are inputs and sources outputs. Both directions then run the same
// kernel.
inline std::vector<AxisSegment> forward_segments(const ConvAxis& axis) {
  std::vector<AxisSegment> segments;
  detail::append_segments(segments, 0, axis.output, 1, axis.stride, [&](int64_t output) {
    std::vector<AxisTap> taps;
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t input = output * axis.stride - axis.padding + k * axis.dilation;
      if (0 <= input && input < axis.input) taps.push_back({k, input});
    }
    return taps;
  });
  return segments;
}

inline std::vector<AxisSegment> transposed_segments(const ConvAxis& axis) {
  std::vector<AxisSegment> segments;
  // Inputs that are a stride apart see the same taps, one output further.
  for (int64_t residue = 0; residue < std::min(axis.stride, axis.input); ++residue) {
    detail::append_segments(segments, residue, axis.input, axis.stride, 1, [&](int64_t input) {
      std::vector<AxisTap> taps;
      for (int64_t k = 0; k < axis.kernel; ++k) {
        const int64_t reach = input + axis.padding - k * axis.dilation;
        if (reach >= 0 && reach % axis.stride == 0 && reach / axis.stride < axis.output) {
          taps.push_back({k, reach / axis.stride});
        }
      }
      return taps;
    });
  }
  return segments;
}

}  // namespace kshot
