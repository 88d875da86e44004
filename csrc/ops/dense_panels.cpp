// Gather plans and packed panels of the dense convolutions.
#include "ops/dense_panels.h"

namespace kshot {
namespace {

cpu::GatherPlan plan_of(const std::vector<AxisSegment>& rows, const std::vector<AxisSegment>& columns,
                        const ConvAxis& height, const ConvAxis& width, bool transposed) {
  cpu::GatherPlan plan{};
  plan.kernel_height = height.kernel;
  plan.kernel_width = width.kernel;
  const int64_t source_height = transposed ? height.output : height.input;
  const int64_t target_height = transposed ? height.input : height.output;
  plan.source_width = transposed ? width.output : width.input;
  plan.target_width = transposed ? width.input : width.output;
  plan.source_pixels = source_height * plan.source_width;
  plan.target_pixels = target_height * plan.target_width;

  const auto sources = [](const std::vector<AxisSegment>& segments, int64_t targets, int64_t size,
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
  };
  plan.row_source = sources(rows, target_height, source_height, height.kernel);
  plan.column_source = sources(columns, plan.target_width, plan.source_width, width.kernel);

  // Transposed, pixels that are a stride apart use the same taps: list them one residue after the other.
  const int64_t row_step = transposed ? height.stride : 1, column_step = transposed ? width.stride : 1;
  for (int64_t r = 0; r < row_step; ++r) {
    for (int64_t c = 0; c < column_step; ++c) {
      for (int64_t y = r; y < target_height; y += row_step) {
        for (int64_t x = c; x < plan.target_width; x += column_step)
          plan.order.push_back(y * plan.target_width + x);
      }
    }
  }
  return plan;
}

int64_t panel_width() {
  int64_t width = 0;
  KSHOT_CALL(get_panel_width, width);
  return width;
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
  STD_TORCH_CHECK(
      weight.size(3) == 1 || weight.size(2) == 1 || weight.stride(2) == weight.stride(3) * weight.size(3),
      "the kernel of a dense weight must lie in order");
  const int64_t tap_stride = weight.size(3) > 1 ? weight.stride(3) : weight.stride(2);
  return {static_cast<const float*>(weight.data_ptr()),
          out_channels,
          in_channels,
          weight.size(2) * weight.size(3),
          weight.stride(0),
          weight.stride(1),
          tap_stride};
}

Panels::Panels(const std::vector<cpu::WeightView>& copies, Side side) {
  const cpu::WeightView& first = copies[0];
  const int64_t width = panel_width();
  const bool by_output = side == Side::kOutput;
  count_ = ((by_output ? first.out_channels : first.in_channels) + width - 1) / width;
  shots_ = static_cast<int64_t>(copies.size());
  size_ = first.taps * (by_output ? first.in_channels : first.out_channels) * width;
  data_.resize(static_cast<size_t>(count_ * shots_ * size_));
  parallel_tasks(count_ * shots_, [&](int64_t task) {
    const int64_t panel = task / shots_, k = task % shots_;
    if (by_output) {
      KSHOT_CALL(pack_by_output, copies[static_cast<size_t>(k)], panel, of(panel) + k * size_);
    } else {
      KSHOT_CALL(pack_by_input, copies[static_cast<size_t>(k)], panel, of(panel) + k * size_);
    }
  });
}

Panels Panels::zeros() const {
  Panels panels;
  panels.count_ = count_;
  panels.shots_ = shots_;
  panels.size_ = size_;
  panels.data_.assign(data_.size(), 0.0f);
  return panels;
}

void Panels::unpack_into(const std::vector<cpu::WeightView>& copies,
                         const std::vector<float*>& targets) const {
  parallel_tasks(count_ * shots_, [&](int64_t task) {
    const int64_t panel = task / shots_, k = task % shots_;
    KSHOT_CALL(unpack_by_input, copies[static_cast<size_t>(k)], panel, of(panel) + k * size_,
               targets[static_cast<size_t>(k)]);
  });
}

void parallel_tasks(int64_t count, const std::function<void(int64_t)>& body) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) body(task);
  });
}

}  // namespace kshot
