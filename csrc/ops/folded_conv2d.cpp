// Operator folded_conv2d on the CPU: a convolution whose norm has known moments, as in evaluation. The norm
// is folded into weight and bias, so that one pass of the plain convolution's kernels does everything:
//
//     scale[o] = norm_weight[o] / sqrt(variance[o] + eps)
//     output[n, o] = activation(norm_bias[o] - mean[o] * scale[o] + input[n] (*) effective[o]),
//     effective[o] = scale[o] * sum_k code[k] * weight[k, o]
#include "ops/chained_dense.h"
#include "ops/depthwise_conv2d.h"
#include "ops/depthwise_mixture.h"
#include "ops/registration.h"

namespace kshot {
namespace {

// A norm of known moments as one factor and one addend per channel, [C] or, if either of its parameters is
// per sample, [N, C], in float32.
class FoldedNorm {
 public:
  // `per_sample`: whether parameters may be, as the weight is.
  FoldedNorm(const Tensor& input, bool per_sample, int64_t channels, const Tensor& mean,
             const Tensor& variance, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
             double eps)
      : rows_(per_sample && (is_matrix(weight) || is_matrix(bias)) ? input.size(0) : 1),
        scale_(new_rows(input, channels)),
        shift_(new_rows(input, channels)) {
    const Tensor means = values_of("mean", mean, input, channels),
                 spread = values_of("variance", variance, input, channels);
    const std::optional<Tensor> factors = parameter("weight", weight, input, channels),
                                addends = parameter("bias", bias, input, channels);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int64_t c = 0; c < channels; ++c) {
        const double scale = at(factors, n, c, 1) / std::sqrt(floats_of(spread)[c] + eps);
        floats_of(scale_)[n * channels + c] = static_cast<float>(scale);
        floats_of(shift_)[n * channels + c] =
            static_cast<float>(at(addends, n, c, 0) - static_cast<double>(floats_of(means)[c]) * scale);
      }
    }
  }

  const Tensor& scale() const { return scale_; }
  const Tensor& shift() const { return shift_; }

 private:
  static bool is_matrix(const std::optional<Tensor>& values) { return values && values->dim() == 2; }
  static double at(const std::optional<Tensor>& values, int64_t n, int64_t c, double otherwise) {
    return values ? floats_of(*values)[(values->dim() == 2 ? n * values->stride(0) : 0) + c] : otherwise;
  }
  static Tensor values_of(const char* name, const Tensor& values, const Tensor& input, int64_t channels) {
    dtype_of(values);
    STD_TORCH_CHECK(
        values.device() == input.device() && values.dim() >= 1 && values.size(values.dim() - 1) == channels &&
            (values.dim() == 1 || (values.dim() == 2 && values.size(0) == input.size(0))),
        name, " must have a value for each of the ", channels, " output channels, on the input's device");
    return as_contiguous(in_dtype(values, torch::headeronly::ScalarType::Float));
  }
  std::optional<Tensor> parameter(const char* name, const std::optional<Tensor>& values, const Tensor& input,
                                  int64_t channels) const {
    STD_TORCH_CHECK(!is_matrix(values) || rows_ > 1 || input.size(0) <= 1, name,
                    " per sample needs a depthwise weight per sample");
    return values ? std::optional(values_of(name, *values, input, channels)) : std::nullopt;
  }
  Tensor new_rows(const Tensor& input, int64_t channels) const {
    return new_floats(rows_ > 1 ? Sizes{rows_, channels} : Sizes{channels}, input);
  }

  int64_t rows_;
  Tensor scale_, shift_;
};

Tensor folded_conv2d(const Tensor& input,                         // [N, C_in', H, W]
                     const Tensor& weight,                        // [K, C_out, C_in/groups, KH, KW]
                     const Tensor& code,                          // [K], depthwise also [N, K]
                     const Tensor& mean, const Tensor& variance,  // [C_out'], of the convolution's output
                     const std::optional<Tensor>& norm_weight,    // [C_out'] or, depthwise with a code per
                     const std::optional<Tensor>& norm_bias,      // sample, [N, C_out']
                     double eps, int64_t activation, int64_t out_channels, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> dilation, bool depthwise) {
  check_operands(input, weight, code, std::nullopt, std::nullopt, out_channels, depthwise);
  STD_TORCH_CHECK(input.scalar_type() != torch::headeronly::ScalarType::Double,
                  "folded_conv2d takes float32, bfloat16 or float16; the reference takes float64");
  STD_TORCH_CHECK(depthwise || code.dim() == 1, "a dense weight per sample is not folded");
  STD_TORCH_CHECK(0 <= activation && activation < kActivations, "activation must be 0 to ", kActivations - 1,
                  ", got ", activation);
  const ConvGeometry geometry =
      conv_geometry(input, out_channels, {weight.size(3), weight.size(4)}, stride, padding, dilation);
  STD_TORCH_CHECK(mean.dim() == 1 && variance.dim() == 1, "mean and variance must be [C_out']");
  const FoldedNorm norm(input, code.dim() == 2, out_channels, mean, variance, norm_weight, norm_bias, eps);
  const auto kind = static_cast<Activation>(activation);
  if (depthwise) {
    const Tensor x = with_even_pixels(input);
    const DepthwiseMixture mixture(weight, code, norm.scale(), out_channels);
    return depthwise_forward(x, mixture.by_tap(x.scalar_type()), in_dtype(norm.shift(), x.scalar_type()),
                             geometry, kind);
  }
  const Mixing mixing(Dictionary(weight), code, norm.scale(), out_channels, geometry.in_channels);
  const ChainOperand operand(input, std::nullopt, std::nullopt, std::nullopt, std::nullopt, 0, 0);
  Tensor output = new_channels_last(input, out_channels, geometry.height.output, geometry.width.output);
  chained_dense_forward(operand, dense_effective(mixing), geometry, output, nullptr, nullptr,
                        {floats_of(norm.shift()), kind});
  return output;
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("folded_conv2d", TORCH_BOX(&kshot::folded_conv2d));
}
