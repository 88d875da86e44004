// Gather plans and packed panels of the dense convolutions.
#include "ops/dense_panels.h"

namespace kshot {
namespace {

// [targets, kernel]: source of each tap, or -1 in the padding.
std::vector<int64_t> sources_of(const std::vector<AxisSegment>& segments, int64_t targets, int64_t size,
                                int64_t kernel) {
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

cpu::GatherPlan plan_of(const std::vector<AxisSegment>& rows, const std::vector<AxisSegment>& columns,
                        const ConvAxis& height, const ConvAxis& width, bool transposed) {
  const int64_t source_height = transposed ? height.output : height.input;
  const int64_t source_width = transposed ? width.output : width.input;
  const int64_t target_height = transposed ? height.input : height.output;
  const int64_t target_width = transposed ? width.input : width.output;
  STD_TORCH_CHECK(std::max(source_height * source_width, target_height * target_width) <= INT32_MAX,
                  "images of more than 2^31 pixels are not supported");
  const std::vector<int64_t> row_source = sources_of(rows, target_height, source_height, height.kernel);
  const std::vector<int64_t> column_source = sources_of(columns, target_width, source_width, width.kernel);

  cpu::GatherPlan plan{height.kernel * width.kernel, source_height * source_width, {}, {}};
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
  for (int64_t r = 0; r < row_step; ++r) {
    for (int64_t c = 0; c < column_step; ++c) {
      for (int64_t y = r; y < target_height; y += row_step) {
        for (int64_t x = c; x < target_width; x += column_step) add_place(y, x);
      }
    }
  }
  return plan;
}

}  // namespace

cpu::GatherPlan forward_plan(const ConvGeometry& geometry) {
  return plan_of(forward_segments(geometry.height), forward_segments(geometry.width), geometry.height,
                 geometry.width, false);
}

cpu::GatherPlan transposed_plan(const ConvGeometry& geometry) {
  return plan_of(transposed_segments(geometry.height), transposed_segments(geometry.width), geometry.height,
                 geometry.width, true);
}

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
