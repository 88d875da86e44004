// Operator batch_norm_act and its backward: checks, allocation, threads. Kernels: cpu/batch_norm_act.cpp.
#include "cpu/batch_norm_act.h"

#include <cmath>
#include <cstring>
#include <tuple>

#include "ops/conv_arguments.h"
#include "ops/join_moments.h"
#include "ops/norm_parameter.h"
#include "ops/registration.h"
#include "ops/sum_of_parts.h"
#include "ops/tensor_utils.h"

namespace kshot {
namespace {

// Positions of the input cut into pieces for the threads, a piece within one sample where parameters are per
// sample.
struct Pieces {
  int64_t samples, pieces, positions;  // pieces and positions of one sample

  Pieces(int64_t samples, int64_t positions, int64_t channels) : samples(samples), positions(positions) {
    constexpr int64_t kElements = 1 << 16;  // fixed, so that sums do not depend on the number of threads
    pieces = std::max<int64_t>(1, positions * channels / kElements);
  }
  int64_t count() const { return samples * pieces; }
  // A second pass over the same tensors goes through the pieces of each thread from the last to the first, as
  // the last are still in its caches.
  enum class Order { kForward, kBackward };
  template <class Body>
  void parallel(Order order, const Body& body) const {
    torch::stable::parallel_for(0, count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t index = order == Order::kForward ? i : begin + end - 1 - i;
        const int64_t sample = index / pieces, piece = index % pieces;
        body(index, sample, sample * positions + piece * positions / pieces,
             sample * positions + (piece + 1) * positions / pieces);
      }
    });
  }
};

// The operands in the form of the kernels, with the tensors behind the raw pointers.
class Problem {
 public:
  Problem(const Tensor& input, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
          const std::optional<Tensor>& residual, int64_t activation)
      : input_(with_even_pixels(input)),
        sum_type_(sum_type_of(input)),
        weight_(weight, input_),
        bias_(bias, input_) {
    channels_ = input.size(1);
    args_.dtype = dtype_of(input_);
    args_.activation = static_cast<Activation>(activation);
    args_.channels = channels_;
    args_.input = pixels_of(input_);
    args_.past_caches = exceeds_caches(input_);
    if (residual) residual_ = with_even_pixels(*residual);
    args_.residual = residual_ ? pixels_of(*residual_) : Pixels<void>{nullptr, 0};
    args_.weight = weight_.data();
    args_.weight_stride = weight_.stride();
    args_.bias = bias_.data();
    args_.bias_stride = bias_.stride();
    const int64_t pixels = input.size(2) * input.size(3);
    per_sample_ = args_.weight_stride || args_.bias_stride;
    args_.positions_per_sample = per_sample_ ? pixels : input.size(0) * pixels;
  }

  cpu::BatchNormAct& args() { return args_; }
  const Tensor& input() const { return input_; }
  int64_t channels() const { return channels_; }
  int64_t positions() const { return input_.size(0) * input_.size(2) * input_.size(3); }
  int64_t samples() const { return per_sample_ ? input_.size(0) : 1; }
  Pieces pieces() const { return Pieces(samples(), args_.positions_per_sample, channels_); }
  Tensor new_sums(const Sizes& sizes) const {
    return empty_strided(sizes, contiguous_strides(sizes), sum_type_, input_);
  }
  Tensor new_like_input() const {
    return new_channels_last(input_, channels_, input_.size(2), input_.size(3));
  }

  // mean and 1 / sqrt(variance + eps), both [C] of the sum type
  void set_statistics(const Tensor& mean, const Tensor& variance, double eps) {
    mean_ = as_contiguous(in_dtype(mean, sum_type_));
    const Tensor spread = as_contiguous(in_dtype(variance, sum_type_));
    inverse_deviation_ = new_sums({channels_});
    const auto fill = [&](auto* type) {
      using C = std::remove_pointer_t<decltype(type)>;
      const C* from = static_cast<const C*>(spread.data_ptr());
      C* to = static_cast<C*>(inverse_deviation_->data_ptr());
      for (int64_t c = 0; c < channels_; ++c)
        to[c] = static_cast<C>(1 / std::sqrt(static_cast<double>(from[c]) + eps));
    };
    if (sum_type_ == torch::headeronly::ScalarType::Double) {
      fill(static_cast<double*>(nullptr));
    } else {
      fill(static_cast<float*>(nullptr));
    }
    args_.mean = mean_->data_ptr();
    args_.inverse_deviation = inverse_deviation_->data_ptr();
  }

 private:
  Tensor input_;
  torch::headeronly::ScalarType sum_type_;
  NormParameter weight_, bias_;
  int64_t channels_;
  bool per_sample_ = false;
  std::optional<Tensor> residual_, mean_, inverse_deviation_;
  cpu::BatchNormAct args_{};
};

std::tuple<Tensor, Tensor> batch_statistics(const Problem& problem) {
  const int64_t channels = problem.channels();
  Tensor mean = problem.new_sums({channels}), variance = problem.new_sums({channels});
  if (problem.positions() == 0) return {torch::stable::zero_(mean), torch::stable::zero_(variance)};
  const Pieces pieces(1, problem.positions(), channels);
  Tensor moments = problem.new_sums({pieces.count(), 2, channels});
  std::vector<int64_t> counts(static_cast<size_t>(pieces.count()));
  const DType dtype = dtype_of(problem.input());
  pieces.parallel(Pieces::Order::kForward, [&](int64_t index, int64_t, int64_t begin, int64_t end) {
    counts[static_cast<size_t>(index)] = end - begin;
    char* own = static_cast<char*>(moments.data_ptr()) +
                index * 2 * channels * static_cast<int64_t>(moments.element_size());
    KSHOT_CALL(batch_norm_moments, dtype, pixels_of(problem.input()), channels, begin, end, own);
  });
  if (dtype == DType::kFloat64) {
    join_moments(static_cast<const double*>(moments.data_ptr()), counts, channels,
                 static_cast<double*>(mean.data_ptr()), static_cast<double*>(variance.data_ptr()));
  } else {
    join_moments(static_cast<const float*>(moments.data_ptr()), counts, channels,
                 static_cast<float*>(mean.data_ptr()), static_cast<float*>(variance.data_ptr()));
  }
  return {mean, variance};
}

// Without `mean` and `variance`, those of the batch are used and returned; else empty tensors are.
std::tuple<Tensor, Tensor, Tensor> batch_norm_act(const Tensor& input,                    // [N, C, H, W]
                                                  const std::optional<Tensor>& weight,    // [C] or [N, C]
                                                  const std::optional<Tensor>& bias,      // [C] or [N, C]
                                                  const std::optional<Tensor>& residual,  // [N, C, H, W]
                                                  const std::optional<Tensor>& mean,      // [C]
                                                  const std::optional<Tensor>& variance,  // [C]
                                                  double eps, int64_t activation) {
  check_norm_operands(input, residual, mean, variance, activation);
  Problem problem(input, weight, bias, residual, activation);
  Tensor used_mean = problem.new_sums({0}), used_variance = problem.new_sums({0});
  if (mean) {
    problem.set_statistics(*mean, *variance, eps);
  } else {
    std::tie(used_mean, used_variance) = batch_statistics(problem);
    problem.set_statistics(used_mean, used_variance, eps);
  }
  Tensor output = problem.new_like_input();
  problem.args().output = output.data_ptr();
  problem.pieces().parallel(Pieces::Order::kBackward,
                            [&](int64_t, int64_t sample, int64_t begin, int64_t end) {
                              KSHOT_CALL(batch_norm_act, problem.args(), sample, begin, end);
                            });
  return {output, used_mean, used_variance};
}

// Sums over positions of g and g * xhat: [2, C], or [N, 2, C] for parameters per sample.
Tensor gradient_sums(const Problem& problem, const cpu::BatchNormActBackward& args) {
  const int64_t channels = problem.channels();
  const Pieces pieces = problem.pieces();
  Tensor sums = problem.new_sums({pieces.samples, pieces.pieces, 2 * channels});
  const int64_t piece_bytes = 2 * channels * static_cast<int64_t>(sums.element_size());
  pieces.parallel(Pieces::Order::kForward, [&](int64_t index, int64_t sample, int64_t begin, int64_t end) {
    char* own = static_cast<char*>(sums.data_ptr()) + index * piece_bytes;
    std::memset(own, 0, static_cast<size_t>(piece_bytes));
    KSHOT_CALL(batch_norm_act_sums, args, sample, begin, end, own);
  });
  return sum_of_parts(sums, 1);  // [samples, 2 C]
}

// A [2, C]: the means over positions of weight * g and weight * g * xhat.
template <class C>
void mean_gradients(const C* sums, const C* weight, int64_t weight_stride, int64_t samples, int64_t channels,
                    int64_t positions, C* result) {
  for (int64_t i = 0; i < 2 * channels; ++i) {
    double total = 0;
    for (int64_t n = 0; n < samples; ++n) {
      const double factor = weight ? weight[n * weight_stride + i % channels] : 1;
      total += factor * sums[n * 2 * channels + i];
    }
    result[i] = static_cast<C>(total / static_cast<double>(positions));
  }
}

// Returns dL/dinput, the sums [samples, 2 C] of which the first C are dL/dbias and the rest dL/dweight,
// dL/dresidual.
std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward(
    const Tensor& grad, const Tensor& input, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& residual, const Tensor& mean,
    const Tensor& variance, double eps, int64_t activation, bool training, bool need_residual) {
  check_norm_operands(input, residual, mean, variance, activation);
  check_like_input("the output's gradient", grad, input);
  Problem problem(input, weight, bias, residual, activation);
  problem.set_statistics(mean, variance, eps);
  const Tensor grad_output = with_even_pixels(grad);
  Tensor grad_input = problem.new_like_input();
  Tensor grad_residual = need_residual ? problem.new_like_input() : none_like(input);

  cpu::BatchNormActBackward args{};
  args.forward = problem.args();
  args.grad_output = pixels_of(grad_output);
  Tensor sums = gradient_sums(problem, args);
  const int64_t channels = problem.channels();
  Tensor means = problem.new_sums({2, channels});
  if (training) {
    const cpu::BatchNormAct& forward = args.forward;
    const auto fill = [&](auto* type) {
      using C = std::remove_pointer_t<decltype(type)>;
      mean_gradients(static_cast<const C*>(sums.data_ptr()), static_cast<const C*>(forward.weight),
                     forward.weight_stride, problem.samples(), channels, problem.positions(),
                     static_cast<C*>(means.data_ptr()));
    };
    if (forward.dtype == DType::kFloat64) {
      fill(static_cast<double*>(nullptr));
    } else {
      fill(static_cast<float*>(nullptr));
    }
    args.mean_grad = means.data_ptr();
    args.mean_grad_normalised =
        static_cast<const char*>(means.data_ptr()) + channels * static_cast<int64_t>(means.element_size());
  }
  args.grad_input = grad_input.data_ptr();
  args.grad_residual = need_residual ? grad_residual.data_ptr() : nullptr;
  problem.pieces().parallel(Pieces::Order::kBackward,
                            [&](int64_t, int64_t sample, int64_t begin, int64_t end) {
                              KSHOT_CALL(batch_norm_act_backward, args, sample, begin, end);
                            });
  return {grad_input, sums, grad_residual};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("batch_norm_act", TORCH_BOX(&kshot::batch_norm_act));
  m.impl("batch_norm_act_backward", TORCH_BOX(&kshot::batch_norm_act_backward));
}
