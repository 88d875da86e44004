// What the links of a chain share: a raw tensor with its norm as the kernels take it, moments and sums of
// groups of tasks, joined.
#pragma once

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "common/aligned_buffer.h"
#include "cpu/chained_conv2d.h"
#include "ops/conv_arguments.h"
#include "ops/join_moments.h"
#include "ops/norm_parameter.h"

namespace kshot {

inline float* floats_of(const Tensor& tensor) {
  return static_cast<float*>(tensor.data_ptr());
}

inline Tensor new_floats(const Sizes& sizes, const Tensor& like) {
  return empty_strided(sizes, contiguous_strides(sizes), torch::headeronly::ScalarType::Float, like);
}

// A raw tensor [N, C, H, W] and the norm that is applied to it while it is loaded: mean and variance [C],
// weight and bias [C], [N, C] or none. Without mean and variance there is no norm.
class ChainOperand {
 public:
  ChainOperand(const Tensor& input, const std::optional<Tensor>& mean, const std::optional<Tensor>& variance,
               const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
               int64_t activation)
      : input_(as_channels_last(input)), weight_(weight, input_), bias_(bias, input_), eps_(eps) {
    check_norm_operands(input, std::nullopt, mean, variance, activation);
    STD_TORCH_CHECK(input.scalar_type() != torch::headeronly::ScalarType::Double,
                    "chains take float32, bfloat16 or float16; the reference takes float64");
    STD_TORCH_CHECK(mean || !(weight || bias), "a norm's weight and bias come with mean and variance");
    args_.dtype = dtype_of(input_);
    args_.data = input_.data_ptr();
    args_.channels = input_.size(1);
    args_.activation = static_cast<Activation>(activation);
    if (mean) set_norm(*mean, *variance);
  }
  ChainOperand(const ChainOperand&) = delete;

  const cpu::ChainInput& args() const { return args_; }
  const Tensor& input() const { return input_; }
  int64_t samples() const { return input_.size(0); }
  int64_t channels() const { return args_.channels; }
  int64_t pixels() const { return input_.size(2) * input_.size(3); }
  bool has_norm() const { return args_.scale != nullptr; }
  bool per_sample() const { return args_.stride != 0; }
  // Whether the link works on the tensor as it lies in memory.
  bool as_is() const {
    return !has_norm() && args_.activation == Activation::kIdentity && args_.dtype == DType::kFloat32;
  }

  // From sums [S, 2, C] of h and h * (x - mean) * inverse_deviation, S being N for parameters per sample and
  // else 1: the gradients of mean and variance, and those of weight and bias, [S, C] each.
  std::vector<Tensor> gradients(const Tensor& sums) const {
    const int64_t rows = sums.size(0), channels = args_.channels;
    std::vector<Tensor> result{new_floats({channels}, input_), new_floats({channels}, input_),
                               new_floats({rows, channels}, input_), new_floats({rows, channels}, input_)};
    float *mean = floats_of(result[0]), *variance = floats_of(result[1]), *weight = floats_of(result[2]),
          *bias = floats_of(result[3]);
    const float *from = floats_of(sums), *factors = static_cast<const float*>(weight_.data());
    for (int64_t c = 0; c < channels; ++c) {
      const double inverse = args_.inverse_deviation[c];
      double of_mean = 0, of_deviation = 0;
      for (int64_t n = 0; n < rows; ++n) {
        const double factor = factors ? factors[n * weight_.stride() + c] : 1;
        bias[n * channels + c] = from[2 * n * channels + c];
        weight[n * channels + c] = from[(2 * n + 1) * channels + c];
        of_mean += factor * bias[n * channels + c];
        of_deviation += factor * weight[n * channels + c];
      }
      mean[c] = static_cast<float>(-inverse * of_mean);
      variance[c] = static_cast<float>(-0.5 * inverse * inverse * of_deviation);
    }
    return result;
  }
  std::vector<Tensor> no_gradients() const {
    return {none_like(input_), none_like(input_), none_like(input_), none_like(input_)};
  }

 private:
  void set_norm(const Tensor& mean, const Tensor& variance) {
    constexpr auto kFloat = torch::headeronly::ScalarType::Float;
    mean_ = as_contiguous(in_dtype(mean, kFloat));
    const Tensor spread = as_contiguous(in_dtype(variance, kFloat));
    const int64_t channels = args_.channels, rows = weight_.stride() || bias_.stride() ? samples() : 1;
    values_ = AlignedBuffer<float>((1 + 2 * rows) * channels);
    float *inverse = values_.data(), *scale = inverse + channels, *shift = scale + rows * channels;
    const float *means = floats_of(*mean_), *factors = static_cast<const float*>(weight_.data()),
                *addends = static_cast<const float*>(bias_.data());
    for (int64_t c = 0; c < channels; ++c) {
      const double exact = 1 / std::sqrt(static_cast<double>(floats_of(spread)[c]) + eps_);
      inverse[c] = static_cast<float>(exact);
      for (int64_t n = 0; n < rows; ++n) {
        const float factor = static_cast<float>(exact * (factors ? factors[n * weight_.stride() + c] : 1));
        const double addend = addends ? addends[n * bias_.stride() + c] : 0;
        scale[n * channels + c] = factor;
        shift[n * channels + c] = static_cast<float>(addend - static_cast<double>(means[c]) * factor);
      }
    }
    args_.mean = means;
    args_.inverse_deviation = inverse;
    args_.scale = scale;
    args_.shift = shift;
    args_.stride = rows > 1 ? channels : 0;
  }

  Tensor input_;
  NormParameter weight_, bias_;
  double eps_;
  std::optional<Tensor> mean_;
  AlignedBuffer<float> values_;
  cpu::ChainInput args_{};
};

// The gradient of a raw output by all its uses, from those of the output and of its moments, [C] each.
class ChainOutputGradient {
 public:
  ChainOutputGradient(const Tensor& grad, const std::optional<Tensor>& grad_mean,
                      const std::optional<Tensor>& grad_variance, const Tensor& output, const Tensor& mean)
      : grad_(as_channels_last(grad)), output_(as_channels_last(output)), mean_(as_contiguous(mean)) {
    const int64_t channels = grad_.size(1);
    values_ = AlignedBuffer<float>(2 * channels);
    args_ = {dtype_of(grad_), grad_.data_ptr(),         nullptr, channels, floats_of(mean_),
             values_.data(),  values_.data() + channels};
    if (!grad_mean && !grad_variance) return;
    check_like_input("the raw output", output, grad);
    const double count = static_cast<double>(grad_.size(0) * grad_.size(2) * grad_.size(3));
    const auto fill = [&](const std::optional<Tensor>& from, double factor, float* to) {
      STD_TORCH_CHECK(!from || (from->device() == grad.device() && sizes_of(*from) == Sizes{channels}),
                      "gradients of moments must be [C] with C = ", channels, ", on the output's device");
      const std::optional<Tensor> values =
          from ? std::optional(as_contiguous(in_dtype(*from, torch::headeronly::ScalarType::Float)))
               : std::nullopt;
      for (int64_t c = 0; c < channels; ++c) {
        to[c] = values ? static_cast<float>(floats_of(*values)[c] * factor) : 0.0f;
      }
    };
    STD_TORCH_CHECK(mean_.device() == grad.device() && sizes_of(mean_) == Sizes{channels} &&
                        mean_.scalar_type() == torch::headeronly::ScalarType::Float,
                    "the mean of the raw output must be [C] of float32 with C = ", channels);
    fill(grad_variance, 2 / count, values_.data());
    fill(grad_mean, 1 / count, values_.data() + channels);
    args_.output = output_.data_ptr();
  }
  ChainOutputGradient(const ChainOutputGradient&) = delete;

  const cpu::ChainGradient& args() const { return args_; }
  // Whether it is the tensor that came.
  bool as_is() const { return !args_.output && args_.dtype == DType::kFloat32; }

 private:
  Tensor grad_, output_, mean_;
  AlignedBuffer<float> values_;
  cpu::ChainGradient args_{};
};

// A result [N, C, H, W] as the kernels write it.
inline cpu::ChainResult chain_result(const Tensor& tensor) {
  return {dtype_of(tensor), tensor.data_ptr(), tensor.size(1), exceeds_caches(tensor)};
}

// Moments [2, C] that groups of tasks made of their own positions, as mean and biased variance [C] of all.
class GroupMoments {
 public:
  GroupMoments(int64_t groups, int64_t channels)
      : channels_(channels), counts_(static_cast<size_t>(groups)), moments_(groups * 2 * channels) {
    std::fill(moments_.data(), moments_.data() + groups * 2 * channels, 0.0f);
  }

  float* of(int64_t group) { return moments_.data() + group * 2 * channels_; }
  int64_t& count(int64_t group) { return counts_[static_cast<size_t>(group)]; }

  void join(float* mean, float* variance) const {
    join_moments(moments_.data(), counts_, channels_, mean, variance);
  }

 private:
  int64_t channels_;
  std::vector<int64_t> counts_;
  AlignedBuffer<float> moments_;
};

// Sums [2, C] of groups of tasks, or of samples where the norm's parameters are per sample.
class GroupSums {
 public:
  GroupSums(const ChainOperand& operand, int64_t groups)
      : per_sample_(operand.per_sample()), rows_(per_sample_ ? operand.samples() : groups) {
    sums_ = new_floats({rows_, 2, operand.channels()}, operand.input());
    std::memset(sums_->data_ptr(), 0, static_cast<size_t>(bytes_of(*sums_)));
  }

  // Where a group adds, and the elements from sample to sample from there.
  float* of(int64_t group) const { return floats_of(*sums_) + (per_sample_ ? 0 : group * stride_of_row()); }
  int64_t stride() const { return per_sample_ ? stride_of_row() : 0; }

  // [S, 2, C], joined in order.
  Tensor joined() const {
    if (per_sample_) return *sums_;
    const int64_t size = stride_of_row();
    Tensor result = new_floats({1, 2, size / 2}, *sums_);
    for (int64_t i = 0; i < size; ++i) {
      double total = 0;
      for (int64_t row = 0; row < rows_; ++row) total += floats_of(*sums_)[row * size + i];
      floats_of(result)[i] = static_cast<float>(total);
    }
    return result;
  }

 private:
  int64_t stride_of_row() const { return sums_->stride(0); }

  bool per_sample_;
  int64_t rows_;
  std::optional<Tensor> sums_;
};

}  // namespace kshot
