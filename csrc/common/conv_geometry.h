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

// An axis as users give it.
struct AxisArguments {
  int64_t input, kernel, stride, padding_before, padding_after, dilation;

  int64_t reach() const { return dilation * (kernel - 1) + 1; }
  int64_t padded() const { return input + padding_before + padding_after; }
};

// What is wrong with an axis, in the user's terms, or null. Kernels compute with positions of the padded
// image in 32 bits, and take for granted that there is a first window.
inline const char* error_of(const AxisArguments& axis) {
  constexpr int64_t kMost = INT32_MAX;
  const auto between = [](int64_t least, int64_t value) { return least <= value && value <= kMost; };
  if (!between(1, axis.input)) return "an image must have 1 to 2^31 - 1 positions along each side";
  if (!between(1, axis.kernel)) return "a kernel must have 1 to 2^31 - 1 taps along each side";
  if (!between(1, axis.stride)) return "stride must be 1 to 2^31 - 1";
  if (!between(0, axis.padding_before) || !between(0, axis.padding_after))
    return "padding must be 0 to 2^31 - 1";
  if (!between(1, axis.dilation)) return "dilation must be 1 to 2^31 - 1";
  if (!between(1, axis.padded()))
    return "the padded image must have at most 2^31 - 1 positions along each side";
  if (axis.reach() > axis.padded()) return "the kernel, with its dilation, is larger than the padded image";
  return nullptr;
}

// The axis of arguments without an error. A stride that leads out of the padded image after the first window
// is cut to what does so, too: loops over residues of the stride are then bounded by the image.
inline ConvAxis axis_of(const AxisArguments& axis) {
  const int64_t room = axis.padded() - axis.reach(), stride = std::min(axis.stride, room + 1);
  return {axis.input, room / stride + 1, axis.kernel, stride, axis.padding_before, axis.dilation};
}

struct ConvGeometry {
  int64_t batch;
  int64_t in_channels, out_channels;  // active ones
  ConvAxis height, width;

  int64_t taps() const { return height.kernel * width.kernel; }
  int64_t input_pixels() const { return height.input * width.input; }     // per sample
  int64_t output_pixels() const { return height.output * width.output; }  // per sample
  int64_t input_size() const { return input_pixels() * in_channels; }     // elements per sample
  int64_t output_size() const { return output_pixels() * out_channels; }  // elements per sample
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

// The taps of each destination that meet a source on the axis, found once for all tasks of a call.
class AxisTaps {
 public:
  AxisTaps(const std::vector<AxisSegment>& segments, int64_t destinations, int64_t sources)
      : each_(static_cast<size_t>(destinations)) {
    size_t most = 0;
    for (const AxisSegment& segment : segments) most = std::max(most, segment.taps.size());
    taps_.resize(each_.size() * most);
    for (const AxisSegment& segment : segments) {
      for (int64_t j = 0; j < segment.count; ++j) {
        const size_t destination = static_cast<size_t>(segment.first + j * segment.step);
        AxisTap* end = taps_.data() + destination * most;
        Range& range = each_[destination];
        range.first = end;
        for (const AxisTap& tap : segment.taps) {
          const int64_t source = tap.source + j * segment.source_step;
          if (source < 0 || source >= sources) continue;
          *end++ = {tap.tap, source};
          range.last_source = std::max(range.last_source, source);
        }
        range.last = end;
      }
      for (const AxisTap& a : segment.taps) {
        for (const AxisTap& b : segment.taps) span_ = std::max(span_, a.source - b.source + 1);
      }
    }
    span_ = std::min(span_, std::max<int64_t>(sources, 1));
    for (size_t i = 1; i < each_.size(); ++i) {
      each_[i].last_source = std::max(each_[i].last_source, each_[i - 1].last_source);
    }
  }
  AxisTaps(const AxisTaps&) = delete;

  struct Range {
    const AxisTap *first = nullptr, *last = nullptr;
    int64_t last_source = 0;  // that destinations up to this one read

    const AxisTap* begin() const { return first; }
    const AxisTap* end() const { return last; }
  };
  const Range& of(int64_t destination) const { return each_[static_cast<size_t>(destination)]; }

  // Sources, of those that exist, that the taps of one destination span.
  int64_t span() const { return span_; }

 private:
  std::vector<Range> each_;
  std::vector<AxisTap> taps_;
  int64_t span_ = 1;
};

}  // namespace kshot
