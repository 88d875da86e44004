// Operator even_and_odd_channels and its backward: checks, allocation, threads. Kernels:
// cpu/channel_split.cpp.
#include "cpu/channel_split.h"

#include <optional>
#include <tuple>

#include "ops/conv_arguments.h"
#include "ops/registration.h"
#include "ops/tensor_utils.h"

namespace kshot {
namespace {

void check_images(const char* name, const Tensor& images) {
  dtype_of(images);
  STD_TORCH_CHECK(images.dim() == 4 && images.size(1) % 2 == 0, name,
                  " must be [N, C, H, W] with an even number of channels");
}

// Calls body(begin, end) for the pixels of images on all threads.
template <class Body>
void parallel_pixels(const Tensor& images, const Body& body) {
  constexpr int64_t kGrain = 32768;  // elements that pay for waking a thread
  const int64_t pixels = images.size(0) * images.size(2) * images.size(3);
  torch::stable::parallel_for(0, pixels, std::max<int64_t>(1, kGrain / std::max<int64_t>(images.size(1), 1)),
                              body);
}

// The pairs of `joined`, whose halves begin at channel `first` of even and odd ones.
cpu::PairedChannels paired(const Tensor& joined, const Tensor& even, const Tensor& odd, int64_t first) {
  const int64_t bytes = static_cast<int64_t>(joined.element_size());
  const auto at = [&](const Tensor& half) { return static_cast<char*>(half.data_ptr()) + first * bytes; };
  return {bytes, joined.size(1) / 2, even.size(1), joined.data_ptr(), at(even), at(odd)};
}

// Even and odd channels of `input` and of what lies behind it, if something does, as if they were one tensor.
std::tuple<Tensor, Tensor> even_and_odd_channels(const Tensor& input,  // [N, C, H, W], C even
                                                 const std::optional<Tensor>& behind) {  // the same, C' even
  check_images("input", input);
  const Tensor source = as_channels_last(input);
  int64_t channels = input.size(1);
  std::optional<Tensor> rest;
  if (behind) {
    check_images("behind", *behind);
    STD_TORCH_CHECK(behind->device() == input.device() && behind->scalar_type() == input.scalar_type() &&
                        behind->size(0) == input.size(0) && behind->size(2) == input.size(2) &&
                        behind->size(3) == input.size(3),
                    "what lies behind the input must be like it but for the channels");
    rest = as_channels_last(*behind);
    channels += behind->size(1);
  }
  Tensor even = new_channels_last(source, channels / 2, input.size(2), input.size(3));
  Tensor odd = new_channels_last(source, channels / 2, input.size(2), input.size(3));
  parallel_pixels(even, [&](int64_t begin, int64_t end) {
    KSHOT_CALL(split_channels, paired(source, even, odd, 0), begin, end);
    if (rest) KSHOT_CALL(split_channels, paired(*rest, even, odd, input.size(1) / 2), begin, end);
  });
  return {even, odd};
}

// The gradients of the first `channels` channels and of those behind them, if there are any; else an empty
// tensor.
std::tuple<Tensor, Tensor> even_and_odd_channels_backward(const Tensor& grad_even,  // [N, (C + C') / 2, H, W]
                                                          const Tensor& grad_odd, int64_t channels) {
  dtype_of(grad_even);
  STD_TORCH_CHECK(
      grad_even.dim() == 4 && grad_even.device() == grad_odd.device() &&
          grad_even.scalar_type() == grad_odd.scalar_type() && sizes_of(grad_even) == sizes_of(grad_odd),
      "the gradients of even and odd channels must be [N, C, H, W], alike in device, dtype and shape");
  const int64_t all = 2 * grad_even.size(1);
  STD_TORCH_CHECK(0 <= channels && channels <= all && channels % 2 == 0, "channels must be even and 0 to ",
                  all, ", got ", channels);
  const Tensor even = as_channels_last(grad_even), odd = as_channels_last(grad_odd);
  const int64_t height = even.size(2), width = even.size(3);
  Tensor grad = new_channels_last(even, channels, height, width);
  Tensor rest = channels < all ? new_channels_last(even, all - channels, height, width) : none_like(even);
  parallel_pixels(even, [&](int64_t begin, int64_t end) {
    KSHOT_CALL(join_channels, paired(grad, even, odd, 0), begin, end);
    if (channels < all) KSHOT_CALL(join_channels, paired(rest, even, odd, channels / 2), begin, end);
  });
  return {grad, rest};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("even_and_odd_channels", TORCH_BOX(&kshot::even_and_odd_channels));
  m.impl("even_and_odd_channels_backward", TORCH_BOX(&kshot::even_and_odd_channels_backward));
}
