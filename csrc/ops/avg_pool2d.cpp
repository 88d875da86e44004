// Operator avg_pool2d and its backward: checks, allocation, threads. Kernel: cpu/avg_pool2d.cpp.
#include "cpu/avg_pool2d.h"

#include <optional>
#include <vector>

#include "common/pool_axis.h"
#include "ops/conv_arguments.h"
#include "ops/registration.h"
#include "ops/tensor_utils.h"

namespace kshot {
namespace {

struct PoolAxes {
  PoolAxis height, width;
};

PoolAxes axes_of(int64_t height, int64_t width, const std::vector<int64_t>& kernel_size,
                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, bool ceil_mode,
                 bool count_include_pad, int64_t divisor) {
  STD_TORCH_CHECK(kernel_size.size() == 2 && stride.size() == 2 && padding.size() == 2,
                  "kernel_size, stride and padding must have two entries each");
  STD_TORCH_CHECK(divisor >= 0, "divisor must be at least 1, or 0 for none, got ", divisor);
  const PoolAxes axes{
      {height, kernel_size[0], stride[0], padding[0], ceil_mode, count_include_pad, divisor},
      {width, kernel_size[1], stride[1], padding[1], ceil_mode, count_include_pad, divisor ? 1 : 0}};
  for (const PoolAxis* axis : {&axes.height, &axes.width}) {
    const char* error = error_of(*axis);
    STD_TORCH_CHECK(!error, error ? error : "");
  }
  return axes;
}

template <class C>
cpu::WeightedAxis weighted_axis(const WeightedSources<C>& table, int64_t sources) {
  return {static_cast<int64_t>(table.first.size()),
          sources,
          table.first.data(),
          table.count.data(),
          table.of_source.data(),
          table.of_target.data()};
}

// The sums that `backward` says over the pixels of `images`.
template <class C>
Tensor summed(const Tensor& images, const PoolAxes& axes, bool backward) {
  const Tensor source = with_even_pixels(images);
  const auto table_of = backward ? outputs_of_inputs<C> : pooled_inputs<C>;
  const WeightedSources<C> rows = table_of(axes.height), columns = table_of(axes.width);
  cpu::SeparableSum args{dtype_of(source),
                         source.size(1),
                         pixels_of(source),
                         weighted_axis(rows, source.size(2)),
                         weighted_axis(columns, source.size(3)),
                         nullptr,
                         false};
  Tensor target = new_channels_last(source, args.channels, args.height.targets, args.width.targets);
  args.target = target.data_ptr();
  args.past_caches = exceeds_caches(target);
  constexpr int64_t kGrain = 32768;  // elements that pay for waking a thread
  const int64_t row = std::max<int64_t>(1, args.width.targets * args.channels);
  torch::stable::parallel_for(
      0, source.size(0) * args.height.targets, std::max<int64_t>(1, kGrain / row),
      [&](int64_t begin, int64_t end) { KSHOT_CALL(separable_sum, args, begin, end); });
  return target;
}

Tensor summed_in_its_type(const Tensor& images, const PoolAxes& axes, bool backward) {
  if (dtype_of(images) == DType::kFloat64) return summed<double>(images, axes, backward);
  return summed<float>(images, axes, backward);
}

Tensor avg_pool2d(const Tensor& input,  // [N, C, H, W]
                  std::vector<int64_t> kernel_size, std::vector<int64_t> stride, std::vector<int64_t> padding,
                  bool ceil_mode, bool count_include_pad, int64_t divisor) {
  STD_TORCH_CHECK(input.dim() == 4 && input.size(1) >= 1,
                  "input must be [N, C, H, W] with at least one channel, got rank ", input.dim());
  return summed_in_its_type(input,
                            axes_of(input.size(2), input.size(3), kernel_size, stride, padding, ceil_mode,
                                    count_include_pad, divisor),
                            false);
}

// dL/dinput, [N, C, height, width].
Tensor avg_pool2d_backward(const Tensor& grad, int64_t height, int64_t width,
                           std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
                           std::vector<int64_t> padding, bool ceil_mode, bool count_include_pad,
                           int64_t divisor) {
  const PoolAxes axes =
      axes_of(height, width, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(1) >= 1 && grad.size(2) == axes.height.output() &&
                      grad.size(3) == axes.width.output(),
                  "the output's gradient must be [N, C, ", axes.height.output(), ", ", axes.width.output(),
                  "]");
  return summed_in_its_type(grad, axes, true);
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("avg_pool2d", TORCH_BOX(&kshot::avg_pool2d));
  m.impl("avg_pool2d_backward", TORCH_BOX(&kshot::avg_pool2d_backward));
}
