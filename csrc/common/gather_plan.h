// Which pixels a dense convolution multiplies with which tap, found once for all tasks of a call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/conv_geometry.h"

namespace kshot {

// Which source pixel each tap of each target pixel reads: forward from outputs to inputs, transposed from
// inputs to outputs. A *place* is an index in the list of target pixels of one sample, which is in such an
// order that neighbours use the same taps where possible.
//
// A convolution of one tap that reads each pixel where it writes is in order, and needs no lists.
struct GatherPlan {
  int64_t taps, source_pixels;
  std::vector<int32_t> target;  // [places]: target pixel
  std::vector<int32_t> source;  // [places, taps]: source pixel, or -1 in the padding
  bool in_order = false;        // whether place p is target p and reads source p, in all samples

  int64_t places() const { return in_order ? source_pixels : static_cast<int64_t>(target.size()); }
};

inline bool is_in_order(const ConvAxis& axis) {
  return axis.kernel == 1 && axis.stride == 1 && axis.padding == 0 && axis.input == axis.output;
}

// [targets, kernel]: source of each tap, or -1 in the padding.
inline std::vector<int64_t> sources_of(const std::vector<AxisSegment>& segments, int64_t targets,
                                       int64_t size, int64_t kernel) {
  std::vector<int64_t> table(static_cast<size_t>(targets * kernel), -1);
  for (const AxisSegment& segment : segments) {
    for (int64_t j = 0; j < segment.count; ++j) {
      for (const AxisTap& tap : segment.taps) {
        const int64_t target = segment.first + j * segment.step,
                      source = tap.source + j * segment.source_step;
        if (0 <= source && source < size) table[static_cast<size_t>(target * kernel + tap.tap)] = source;
      }
    }
  }
  return table;
}

inline GatherPlan plan_of(const std::vector<AxisSegment>& rows, const std::vector<AxisSegment>& columns,
                          const ConvAxis& height, const ConvAxis& width, bool transposed) {
  if (is_in_order(height) && is_in_order(width)) return {1, height.input * width.input, {}, {}, true};
  const int64_t source_height = transposed ? height.output : height.input;
  const int64_t source_width = transposed ? width.output : width.input;
  const int64_t target_height = transposed ? height.input : height.output;
  const int64_t target_width = transposed ? width.input : width.output;
  const std::vector<int64_t> row_source = sources_of(rows, target_height, source_height, height.kernel);
  const std::vector<int64_t> column_source = sources_of(columns, target_width, source_width, width.kernel);

  GatherPlan plan{height.kernel * width.kernel, source_height * source_width};
  plan.target.reserve(static_cast<size_t>(target_height * target_width));
  plan.source.reserve(plan.target.capacity() * static_cast<size_t>(plan.taps));
  const auto add_place = [&](int64_t y, int64_t x) {
    plan.target.push_back(static_cast<int32_t>(y * target_width + x));
    for (int64_t ky = 0; ky < height.kernel; ++ky) {
      const int64_t source_y = row_source[static_cast<size_t>(y * height.kernel + ky)];
      for (int64_t kx = 0; kx < width.kernel; ++kx) {
        const int64_t source_x = column_source[static_cast<size_t>(x * width.kernel + kx)];
        const bool inside = source_y >= 0 && source_x >= 0;
        plan.source.push_back(inside ? static_cast<int32_t>(source_y * source_width + source_x) : -1);
      }
    }
  };
  // Transposed, pixels that are a stride apart use the same taps: list them one residue after the other.
  const int64_t row_step = transposed ? height.stride : 1, column_step = transposed ? width.stride : 1;
  for (int64_t r = 0; r < std::min(row_step, target_height); ++r) {
    for (int64_t c = 0; c < std::min(column_step, target_width); ++c) {
      for (int64_t y = r; y < target_height; y += row_step) {
        for (int64_t x = c; x < target_width; x += column_step) add_place(y, x);
      }
    }
  }
  return plan;
}

// From outputs to inputs: the forward pass and the gradient of the weight.
inline GatherPlan forward_plan(const ConvGeometry& geometry) {
  return plan_of(forward_segments(geometry.height), forward_segments(geometry.width), geometry.height,
                 geometry.width, false);
}

// From inputs to outputs: the gradient of the input.
inline GatherPlan transposed_plan(const ConvGeometry& geometry) {
  return plan_of(transposed_segments(geometry.height), transposed_segments(geometry.width), geometry.height,
                 geometry.width, true);
}

}  // namespace kshot
