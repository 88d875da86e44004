// What the dense convolutions share: weights in panels, and passes over panels and samples.
#pragma once

#include <functional>
#include <vector>

#include "common/aligned_buffer.h"
#include "cpu/dense_conv2d.h"
#include "ops/conv_arguments.h"

namespace kshot {

// Whether one stride leads through all taps of a weight [C_out, C_in, KH, KW].
bool kernel_lies_in_order(const Tensor& weight);
// The active part of a weight [C_out, C_in, KH, KW] whose kernel lies in order.
cpu::WeightView weight_view(const Tensor& weight, int64_t out_channels, int64_t in_channels);

// A new weight of these sizes with no gaps, in the order of dimensions that `weight`, which may be a slice,
// has.
Tensor new_packed_like(const Tensor& weight);

// Panels of the K copies of a weight, [panels, K, taps, depth, width].
class Panels {
 public:
  enum class Side { kOutput, kInput };  // the channels that are the lanes

  // `copies`: views of the K copies.
  Panels(const std::vector<cpu::WeightView>& copies, Side side);

  int64_t width() const { return width_; }  // channels of a panel
  int64_t count() const { return count_; }
  int64_t shots() const { return shots_; }
  int64_t size() const { return size_; }  // elements of one panel of one copy
  float* of(int64_t panel) { return data_.data() + panel * shots_ * size_; }
  const float* of(int64_t panel) const { return data_.data() + panel * shots_ * size_; }

  // Panels [begin, end) of a weight of one copy.
  cpu::PanelRange<const float*> range(int64_t begin, int64_t end) const {
    return {of(begin), size_, width_, begin, end};
  }
  cpu::PanelRange<float*> range(int64_t begin, int64_t end) { return {of(begin), size_, width_, begin, end}; }

  // Panels of one weight, all zero.
  static Panels zeros(const cpu::WeightView& weight, Side side);
  // Writes panels of one copy back into a weight laid out like `weight`.
  void unpack_into(const cpu::WeightView& weight, float* target) const;

 private:
  Panels(const cpu::WeightView& copy, int64_t shots, Side side);
  Side side_;
  int64_t width_ = 0, count_ = 0, shots_ = 0, size_ = 0;
  AlignedBuffer<float> data_;
};

// Runs body(index) for [0, count) on all threads.
void parallel_tasks(int64_t count, const std::function<void(int64_t)>& body);

}  // namespace kshot
