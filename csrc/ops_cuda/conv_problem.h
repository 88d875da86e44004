// A convolution of a mixed weight as the CUDA kernels take it.
#pragma once

#include "cuda/dense_conv2d.h"
#include "cuda/depthwise_conv2d.h"
#include "ops/conv_arguments.h"
#include "ops/dictionary.h"

namespace kshot {

struct WindowArguments {
  const std::vector<int64_t>&stride, &padding, &dilation;
};

// The leading channels of a dictionary.
inline Tensor leading(Tensor dictionary, int64_t out_channels, int64_t in_channels) {
  Tensor narrow = torch::stable::narrow(dictionary, 1, 0, out_channels);
  return torch::stable::narrow(narrow, 2, 0, in_channels);
}

// What the kernels of CUDA ask for beyond `check_operands`.
inline void check_cuda_operands(const Tensor& input, const Tensor& weight, const Tensor& code,
                                const std::optional<Tensor>& gate, const std::optional<Tensor>& bias,
                                int64_t out_channels, bool depthwise) {
  check_operands(input, weight, code, gate, bias, out_channels, depthwise);
  if (depthwise) return;
  STD_TORCH_CHECK(dtype_of(input) != DType::kFloat64 && weight.size(0) <= cuda::kMostDenseCopies,
                  "dense convolutions of CUDA take float32, bfloat16 and float16, and at most ",
                  cuda::kMostDenseCopies, " copies, got ", weight.size(0));
}

// Operands that check_cuda_operands has seen, laid out, and what both directions know of the convolution.
class ConvProblem {
 public:
  ConvProblem(const Tensor& input, const Tensor& weight, const Tensor& code,
              const std::optional<Tensor>& gate, int64_t out_channels, const WindowArguments& window,
              bool depthwise)
      : depthwise_(depthwise),
        channels_last_(!depthwise || pixel_stride(input) != 0),
        input_(as_source(input)),
        weight_(active_part(weight, input, out_channels, depthwise)),
        code_(as_contiguous(code)),
        geometry_(conv_geometry(input_, out_channels, {weight.size(3), weight.size(4)}, window.stride,
                                window.padding, window.dilation)) {
    if (gate) gate_ = as_contiguous(*gate);
  }

  const ConvGeometry& geometry() const { return geometry_; }
  const Tensor& input() const { return input_; }
  const Tensor& weight() const { return weight_; }
  const Tensor& code() const { return code_; }
  DType dtype() const { return dtype_of(input_); }
  bool per_sample() const { return code_.dim() == 2; }
  cuda::Layout layout() const {
    return channels_last_ ? cuda::Layout::kChannelsLast : cuda::Layout::kContiguous;
  }

  // An image that kernels read, as they take it: channels of a wider one stay where they lie.
  Tensor as_source(const Tensor& image) const {
    return channels_last_ ? with_even_pixels(image) : laid_out_as(image, contiguous_strides(sizes_of(image)));
  }
  // Of one that `as_source` gave.
  Pixels<void> pixels(const Tensor& source) const {
    return {source.data_ptr(), channels_last_ ? pixel_stride(source) : source.size(1)};
  }
  Tensor new_image(int64_t channels, int64_t height, int64_t width) const {
    const Sizes sizes{input_.size(0), channels, height, width};
    return empty_strided(sizes, strides_for(sizes), input_.scalar_type(), input_);
  }

  cuda::DenseDictionary dense_dictionary() const {
    return {weight_.data_ptr(),
            weight_.stride(0),
            weight_.stride(1),
            weight_.stride(4),
            static_cast<int32_t>(weight_.size(0)),
            static_cast<const float*>(code_.data_ptr()),
            per_sample() ? code_.size(1) : 0};
  }
  cuda::DenseChannels dense_gate() const {
    return gate_ ? cuda::DenseChannels{static_cast<const float*>(gate_->data_ptr()), gate_stride()}
                 : cuda::DenseChannels{nullptr, 0};
  }
  cuda::DepthwiseWeight depthwise_weight() const {
    return {weight_.data_ptr(),
            weight_.size(0),
            weight_.stride(0),
            weight_.stride(1),
            1,
            code_.data_ptr(),
            per_sample() ? code_.size(1) : 0,
            gate_ ? gate_->data_ptr() : nullptr,
            gate_ ? gate_stride() : 0};
  }

 private:
  // What the call uses of the dictionary in the kernels' layout and dtype: the dictionary itself, or a copy
  // of that part alone.
  static Tensor active_part(const Tensor& weight, const Tensor& input, int64_t out_channels, bool depthwise) {
    const auto wanted = [&](const Tensor& tensor) {
      const Sizes sizes = sizes_of(tensor);
      return depthwise ? contiguous_strides(sizes) : Dictionary::inner_channels_last(sizes, 2);
    };
    if (weight.scalar_type() == input.scalar_type() && lies_as(weight, wanted(weight))) return weight;
    const Tensor part = leading(weight, out_channels, depthwise ? 1 : input.size(1));
    Tensor copy = empty_strided(sizes_of(part), wanted(part), input.scalar_type(), weight);
    torch::stable::copy_(copy, part);
    return copy;
  }

  Sizes strides_for(const Sizes& sizes) const {
    return channels_last_ ? channels_last_strides(sizes) : contiguous_strides(sizes);
  }
  int64_t gate_stride() const { return gate_->dim() == 2 ? gate_->size(1) : 0; }

  bool depthwise_, channels_last_;
  Tensor input_, weight_, code_;
  std::optional<Tensor> gate_;
  ConvGeometry geometry_;
};

}  // namespace kshot
