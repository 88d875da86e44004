// Packed panels of the dense convolutions.
#include "ops/dense_panels.h"

namespace kshot {

bool kernel_lies_in_order(const Tensor& weight) {
  return weight.size(2) == 1 || weight.size(3) == 1 || weight.stride(2) == weight.stride(3) * weight.size(3);
}

cpu::WeightView weight_view(const Tensor& weight, int64_t out_channels, int64_t in_channels) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.scalar_type() == torch::headeronly::ScalarType::Float,
                  "a dense weight must be [C_out, C_in, KH, KW] of float32");
  STD_TORCH_CHECK(kernel_lies_in_order(weight), "the kernel of a dense weight must lie in order");
  const int64_t tap_stride = weight.size(3) > 1 ? weight.stride(3) : weight.stride(2);
  return {static_cast<const float*>(weight.data_ptr()),
          out_channels,
          in_channels,
          weight.size(2) * weight.size(3),
          weight.stride(0),
          weight.stride(1),
          tap_stride};
}

Tensor new_packed_like(const Tensor& weight) {
  const Sizes sizes = sizes_of(weight);
  const bool channels_last = weight.size(1) > 1 && weight.stride(1) == 1;
  const Sizes strides = channels_last
                            ? Sizes{sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]}
                            : contiguous_strides(sizes);
  return empty_strided(sizes, strides, weight.scalar_type(), weight);
}

Panels::Panels(const cpu::WeightView& copy, int64_t shots, Side side) : side_(side), shots_(shots) {
  const bool by_output = side == Side::kOutput;
  const int64_t channels = by_output ? copy.out_channels : copy.in_channels;
  KSHOT_CALL(choose_panel_width, channels, width_);
  count_ = (channels + width_ - 1) / width_;
  size_ = copy.taps * (by_output ? copy.in_channels : copy.out_channels) * width_;
  data_ = AlignedBuffer<float>(count_ * shots_ * size_);
}

Panels::Panels(const std::vector<cpu::WeightView>& copies, Side side)
    : Panels(copies[0], static_cast<int64_t>(copies.size()), side) {
  parallel_tasks(count_ * shots_, [&](int64_t task) {
    const int64_t panel = task / shots_, k = task % shots_;
    const cpu::WeightView& copy = copies[static_cast<size_t>(k)];
    if (side_ == Side::kOutput) {
      KSHOT_CALL(pack_by_output, copy, panel, width_, of(panel) + k * size_);
    } else {
      KSHOT_CALL(pack_by_input, copy, panel, width_, of(panel) + k * size_);
    }
  });
}

Panels Panels::zeros(const cpu::WeightView& weight, Side side) {
  Panels panels(weight, 1, side);
  std::fill(panels.data_.data(), panels.data_.data() + panels.count_ * panels.shots_ * panels.size_, 0.0f);
  return panels;
}

void Panels::unpack_into(const cpu::WeightView& weight, float* target) const {
  parallel_tasks(count_, [&](int64_t panel) {
    if (side_ == Side::kOutput) {
      KSHOT_CALL(unpack_by_output, weight, panel, width_, of(panel), target);
    } else {
      KSHOT_CALL(unpack_by_input, weight, panel, width_, of(panel), target);
    }
  });
}

void parallel_tasks(int64_t count, const std::function<void(int64_t)>& body) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) body(task);
  });
}

}  // namespace kshot
