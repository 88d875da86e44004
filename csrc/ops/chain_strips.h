// The images of a dense convolution cut into strips of rows that stay in the second cache while a link of a
// chain maps, multiplies and stores them.
//
//     rows of the input    ...[ halo | owned by the strip | halo ]...
//     rows of the output            [ owned by the strip ]           and those that the owned inputs feed
//
// A 1x1 convolution without padding has no halo, and all its positions are one column.
#pragma once

#include <algorithm>
#include <vector>

#include "common/gather_plan.h"

namespace kshot {

struct RowRange {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

struct ChainStrip {
  RowRange outputs;             // owned
  RowRange read;                // input rows that the owned outputs read
  RowRange inputs;              // owned: each row of the input belongs to one strip
  RowRange fed;                 // output rows that the owned inputs feed, and the owned ones
  int64_t forward, transposed;  // plans: from `read` to `outputs`, and from `fed` to `inputs`
};

class ChainStrips {
 public:
  // `rows`: outputs of a strip.
  ChainStrips(const ConvGeometry& geometry, int64_t rows, bool backward) : width_(geometry.width) {
    const ConvAxis& axis = geometry.height;
    const int64_t reach = axis.dilation * (axis.kernel - 1) + 1;
    const auto inside = [](int64_t row, int64_t rows) { return std::clamp<int64_t>(row, 0, rows); };
    for (int64_t y = 0; y < axis.output; y += rows) {
      ChainStrip strip{};
      strip.outputs = {y, std::min(y + rows, axis.output)};
      const int64_t first = y * axis.stride - axis.padding, last = strip.outputs.end - 1;
      strip.read = {inside(first, axis.input), inside(last * axis.stride - axis.padding + reach, axis.input)};
      strip.forward = plan_of_rows(strip.read, strip.outputs, first - strip.read.begin, axis, false);
      if (backward) {
        const bool is_last = strip.outputs.end == axis.output;
        strip.inputs = {inside(y * axis.stride, axis.input),
                        is_last ? axis.input : inside(strip.outputs.end * axis.stride, axis.input)};
        const int64_t lowest = strip.inputs.begin + axis.padding - reach + axis.stride;
        const int64_t highest = (strip.inputs.end - 1 + axis.padding) / axis.stride + 1;
        strip.fed = {std::min(y, inside(lowest / axis.stride, axis.output)),
                     std::max(strip.outputs.end, inside(highest, axis.output))};
        strip.transposed =
            plan_of_rows(strip.inputs, strip.fed,
                         strip.fed.begin * axis.stride - axis.padding - strip.inputs.begin, axis, true);
      }
      strips_.push_back(strip);
    }
  }

  int64_t count() const { return static_cast<int64_t>(strips_.size()); }
  const ChainStrip& operator[](int64_t index) const { return strips_[static_cast<size_t>(index)]; }
  const GatherPlan& plan(int64_t index) const { return plans_[static_cast<size_t>(index)].plan; }

 private:
  struct Planned {
    ConvAxis height;
    bool transposed;
    GatherPlan plan;
  };

  // The plan of so many rows, the first output's first tap lying `first` rows after the first input row.
  int64_t plan_of_rows(const RowRange& inputs, const RowRange& outputs, int64_t first, ConvAxis axis,
                       bool transposed) {
    axis.input = inputs.size();
    axis.output = outputs.size();
    axis.padding = -first;
    for (size_t i = 0; i < plans_.size(); ++i) {
      const ConvAxis& height = plans_[i].height;
      if (plans_[i].transposed == transposed && height.input == axis.input && height.output == axis.output &&
          height.padding == axis.padding) {
        return static_cast<int64_t>(i);
      }
    }
    const auto segments = transposed ? transposed_segments : forward_segments;
    plans_.push_back({axis, transposed, plan_of(segments(axis), segments(width_), axis, width_, transposed)});
    return static_cast<int64_t>(plans_.size()) - 1;
  }

  ConvAxis width_;
  std::vector<ChainStrip> strips_;
  std::vector<Planned> plans_;
};

}  // namespace kshot
