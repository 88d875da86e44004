// Operator even_and_odd_channels and its backward: checks, allocation, threads. Kernels:
// cpu/channel_split.cpp.
#include "cpu/channel_split.h"

#include <tuple>

#include "ops/conv_arguments.h"
#include "ops/registration.h"
#include "ops/tensor_utils.h"

namespace kshot {
namespace {

constexpr int64_t kGrain = 32768;  // elements that pay for waking a thread

std::tuple<Tensor, Tensor> even_and_odd_channels(const Tensor& input) {  // [N, C, H, W], C even
  dtype_of(input);
  STD_TORCH_CHECK(input.dim() == 4 && input.size(1) % 2 == 0,
                  "input must be [N, C, H, W] with an even number of channels");
  const Tensor source = as_channels_last(input);
  const int64_t channels = input.size(1) / 2;
  Tensor even = new_channels_last(source, channels, input.size(2), input.size(3));
  Tensor odd = new_channels_last(source, channels, input.size(2), input.size(3));
  torch::stable::parallel_for(0, product(sizes_of(even)), kGrain, [&](int64_t begin, int64_t end) {
    KSHOT_CALL(split_even_odd, static_cast<int64_t>(source.element_size()), source.data_ptr(),
               even.data_ptr(), odd.data_ptr(), begin, end);
  });
  return {even, odd};
}

Tensor even_and_odd_channels_backward(const Tensor& grad_even, const Tensor& grad_odd) {  // each [N, C, H, W]
  dtype_of(grad_even);
  STD_TORCH_CHECK(grad_even.device() == grad_odd.device() &&
                      grad_even.scalar_type() == grad_odd.scalar_type() &&
                      sizes_of(grad_even) == sizes_of(grad_odd),
                  "the gradients of even and odd channels must be alike in device, dtype and shape");
  const Tensor even = as_channels_last(grad_even), odd = as_channels_last(grad_odd);
  Tensor grad = new_channels_last(even, 2 * even.size(1), even.size(2), even.size(3));
  torch::stable::parallel_for(0, product(sizes_of(even)), kGrain, [&](int64_t begin, int64_t end) {
    KSHOT_CALL(join_even_odd, static_cast<int64_t>(even.element_size()), even.data_ptr(), odd.data_ptr(),
               grad.data_ptr(), begin, end);
  });
  return grad;
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("even_and_odd_channels", TORCH_BOX(&kshot::even_and_odd_channels));
  m.impl("even_and_odd_channels_backward", TORCH_BOX(&kshot::even_and_odd_channels_backward));
}
