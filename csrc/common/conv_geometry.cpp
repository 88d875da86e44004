// Which taps of a convolution reach which positions of an axis.
#include "common/conv_geometry.h"

#include <algorithm>

namespace kshot {
namespace {

// Joins destinations first, first + step, ... with equal taps into segments; `taps_of` lists the taps of one.
template <class TapsOf>
void append_segments(std::vector<AxisSegment>& segments, int64_t first, int64_t end, int64_t step, int64_t source_step,
                     const TapsOf& taps_of) {
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

}  // namespace

std::vector<AxisSegment> forward_segments(const ConvAxis& axis) {
  std::vector<AxisSegment> segments;
  append_segments(segments, 0, axis.output, 1, axis.stride, [&](int64_t output) {
    std::vector<AxisTap> taps;
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t input = output * axis.stride - axis.padding + k * axis.dilation;
      if (0 <= input && input < axis.input) taps.push_back({k, input});
    }
    return taps;
  });
  return segments;
}

std::vector<AxisSegment> transposed_segments(const ConvAxis& axis) {
  std::vector<AxisSegment> segments;
  // Inputs that are a stride apart see the same taps, one output further.
  for (int64_t residue = 0; residue < std::min(axis.stride, axis.input); ++residue) {
    append_segments(segments, residue, axis.input, axis.stride, 1, [&](int64_t input) {
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
