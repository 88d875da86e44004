// A weight dictionary [K, C_out, C_in/groups, *kernel] (or [K, C_out]) as the kernels see it: rows of runs.
#pragma once

#include "common/mix_geometry.h"
#include "ops/tensor_utils.h"

namespace kshot {

// Layout of a dictionary: contiguous, or each copy with its input channels innermost. Mirrored by
// `copies_are_channels_last` in kshot_ext/ops/effective_weight.py, which shapes the fake tensors.
class Dictionary {
 public:
  // Copies the tensor if it has neither layout.
  explicit Dictionary(const Tensor& tensor) : sizes_(sizes_of(tensor)) {
    dtype_of(tensor);
    STD_TORCH_CHECK(sizes_.size() >= 2, "a weight dictionary has shape [K, C_out, ...], got rank ",
                    sizes_.size());
    const Sizes contiguous = contiguous_strides(sizes_), channels_last = inner_channels_last(sizes_, 2);
    channels_last_ = sizes_.size() > 3 && !lies_as(tensor, contiguous) && lies_as(tensor, channels_last);
    strides_ = channels_last_ ? channels_last : contiguous;
    tensor_ = laid_out_as(tensor, strides_);
  }

  const Tensor& tensor() const { return tensor_; }
  const Sizes& sizes() const { return sizes_; }
  const Sizes& strides() const { return strides_; }
  int64_t shots() const { return sizes_[0]; }
  int64_t out_channels() const { return sizes_[1]; }
  int64_t in_channels() const { return sizes_.size() > 2 ? sizes_[2] : 1; }
  int64_t kernel_size() const { return product(sizes_, 3); }

  // The dictionary's active part. `whole_rows`: rows must stay output channels, for a gate or for slicing.
  MixGeometry geometry(int64_t samples, int64_t out_channels, int64_t in_channels, bool whole_rows) const {
    MixGeometry g{};
    g.shots = shots();
    g.samples = samples;
    const int64_t row_size = this->in_channels() * kernel_size();
    g.shot_stride = this->out_channels() * row_size;
    g.sample_size = out_channels * in_channels * kernel_size();
    if (!whole_rows && out_channels == this->out_channels() && in_channels == this->in_channels()) {
      g.rows = (g.shot_stride + kFlatRow - 1) / kFlatRow;
      g.runs = 1;
      g.run_length = g.row_stride = kFlatRow;
      g.last_run_length = g.shot_stride - (g.rows - 1) * kFlatRow;
      return g;
    }
    g.rows = out_channels;
    g.row_stride = row_size;
    g.runs = channels_last_ ? kernel_size() : 1;
    g.run_stride = channels_last_ ? this->in_channels() : row_size;
    g.run_length = g.last_run_length = channels_last_ ? in_channels : in_channels * kernel_size();
    return g;
  }

  // Shape and strides of an effective weight: [C_out', C_in', *kernel], after [N] if there is a code per
  // sample.
  Sizes effective_sizes(std::optional<int64_t> samples, int64_t out_channels, int64_t in_channels) const {
    Sizes sizes;
    if (samples) sizes.push_back(*samples);
    sizes.push_back(out_channels);
    if (sizes_.size() > 2) sizes.push_back(in_channels);
    sizes.insert(sizes.end(), sizes_.begin() + std::min<size_t>(3, sizes_.size()), sizes_.end());
    return sizes;
  }
  Sizes effective_strides(const Sizes& effective) const {
    const size_t channels = effective.size() - sizes_.size() + 2;
    return channels_last_ ? inner_channels_last(effective, channels) : contiguous_strides(effective);
  }

  // Strides of a tensor whose dimension `channels` lies innermost in memory.
  static Sizes inner_channels_last(const Sizes& sizes, size_t channels) {
    if (channels >= sizes.size()) return contiguous_strides(sizes);
    Sizes moved = sizes;
    std::rotate(moved.begin() + channels, moved.begin() + channels + 1, moved.end());
    Sizes strides = contiguous_strides(moved);
    std::rotate(strides.begin() + channels, strides.end() - 1, strides.end());
    return strides;
  }

 private:
  Sizes sizes_, strides_;
  bool channels_last_ = false;
  Tensor tensor_;
};

}  // namespace kshot
