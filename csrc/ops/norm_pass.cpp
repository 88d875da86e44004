// The passes of batch_norm_act on the CPU: allocation, threads. Kernels: cpu/batch_norm_act.cpp.
#include "ops/norm_pass.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "common/aligned_buffer.h"
#include "cpu/batch_norm_act.h"
#include "ops/conv_arguments.h"
#include "ops/join_moments.h"

namespace kshot {
namespace {

// Positions of the input cut into pieces for the threads, a piece within one sample where parameters are per
// sample.
struct Pieces {
  int64_t samples, pieces, positions;  // pieces and positions of one sample

  Pieces(int64_t samples, int64_t positions, int64_t channels) : samples(samples), positions(positions) {
    // Fixed, so that sums do not depend on the number of threads. Of many channels a piece has positions
    // enough that its sums are little beside it.
    constexpr int64_t kElements = 1 << 15, kPositions = 64;
    pieces = std::max<int64_t>(1, std::min(positions * channels / kElements, positions / kPositions));
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

// Calls body(null pointer to the sum type) for tensors of a dtype.
template <class Body>
void with_sum_type(DType dtype, const Body& body) {
  if (dtype == DType::kFloat64) {
    body(static_cast<double*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

// The operands in the form of the kernels, with the tensors behind the raw pointers.
class Problem {
 public:
  explicit Problem(const NormOperands& operands)
      : input_(with_even_pixels(operands.input)),
        sum_type_(sum_type_of(input_)),
        sum_bytes_(sum_type_ == torch::headeronly::ScalarType::Double ? 8 : 4),
        per_sample_(operands.per_sample()),
        eps_(operands.eps),
        weight_(operands.weight, input_),
        bias_(operands.bias, input_) {
    args_.dtype = dtype_of(input_);
    args_.activation = static_cast<Activation>(operands.activation);
    args_.channels = input_.size(1);
    args_.input = pixels_of(input_);
    args_.past_caches = exceeds_caches(input_);
    if (operands.residual) residual_ = with_even_pixels(*operands.residual);
    args_.residual = residual_ ? pixels_of(*residual_) : Pixels<void>{nullptr, 0};
    args_.weight = weight_.data();
    args_.weight_stride = weight_.stride();
    args_.bias = bias_.data();
    args_.bias_stride = bias_.stride();
    const int64_t pixels = input_.size(2) * input_.size(3);
    args_.positions_per_sample = per_sample_ ? pixels : input_.size(0) * pixels;
  }

  cpu::BatchNormAct& args() { return args_; }
  const cpu::BatchNormAct& args() const { return args_; }
  int64_t channels() const { return args_.channels; }
  int64_t positions() const { return input_.size(0) * input_.size(2) * input_.size(3); }
  int64_t samples() const { return per_sample_ ? input_.size(0) : 1; }
  int64_t sum_bytes() const { return sum_bytes_; }
  Pieces pieces() const { return Pieces(samples(), args_.positions_per_sample, channels()); }
  // [C], or [N, C] where parameters are per sample.
  Tensor new_parameter_sums() const {
    return per_sample_ ? new_sums({samples(), channels()}) : new_sums({channels()});
  }
  Tensor new_sums(const Sizes& sizes) const {
    return empty_strided(sizes, contiguous_strides(sizes), sum_type_, input_);
  }
  Tensor new_like_input() const {
    return new_channels_last(input_, channels(), input_.size(2), input_.size(3));
  }

  // Mean and variance, both [C].
  void set_statistics(const Tensor& mean, const Tensor& variance) {
    mean_ = as_contiguous(in_dtype(mean, sum_type_));
    const Tensor spread = as_contiguous(in_dtype(variance, sum_type_));
    inverse_deviation_ = AlignedBuffer<char>(channels() * sum_bytes_);
    with_sum_type(args_.dtype, [&](auto* type) {
      using C = std::remove_pointer_t<decltype(type)>;
      const C* from = static_cast<const C*>(spread.data_ptr());
      C* to = reinterpret_cast<C*>(inverse_deviation_.data());
      for (int64_t c = 0; c < channels(); ++c)
        to[c] = static_cast<C>(1 / std::sqrt(static_cast<double>(from[c]) + eps_));
    });
    args_.mean = mean_->data_ptr();
    args_.inverse_deviation = inverse_deviation_.data();
  }

 private:
  Tensor input_;
  torch::headeronly::ScalarType sum_type_;
  int64_t sum_bytes_;
  bool per_sample_;
  double eps_;
  NormParameter weight_, bias_;
  std::optional<Tensor> residual_, mean_;
  AlignedBuffer<char> inverse_deviation_;
  cpu::BatchNormAct args_{};
};

// Mean and variance of the batch, both [C].
void batch_statistics(const Problem& problem, Tensor& mean, Tensor& variance) {
  const int64_t channels = problem.channels();
  if (problem.positions() == 0) {
    torch::stable::zero_(mean);
    torch::stable::zero_(variance);
    return;
  }
  const cpu::BatchNormAct& args = problem.args();
  const Pieces pieces(1, problem.positions(), channels);
  const int64_t piece_bytes = 2 * channels * problem.sum_bytes();
  AlignedBuffer<char> moments(pieces.count() * piece_bytes);
  std::vector<int64_t> counts(static_cast<size_t>(pieces.count()));
  pieces.parallel(Pieces::Order::kForward, [&](int64_t index, int64_t, int64_t begin, int64_t end) {
    counts[static_cast<size_t>(index)] = end - begin;
    KSHOT_CALL(batch_norm_moments, args.dtype, args.input, channels, begin, end,
               moments.data() + index * piece_bytes);
  });
  with_sum_type(args.dtype, [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    join_moments(reinterpret_cast<const C*>(moments.data()), counts, channels,
                 static_cast<C*>(mean.data_ptr()), static_cast<C*>(variance.data_ptr()));
  });
}

// Of all parts [samples, pieces, 2, C], sums over positions of g and g * xhat: those of each sample, the
// gradients of bias and weight [samples, C]; and weighted means [2, C] over all positions, of weight * g and
// weight * g * xhat.
template <class C>
void join_sums(const C* parts, const Pieces& pieces, int64_t channels, const C* weight, int64_t weight_stride,
               C* grad_bias, C* grad_weight, C* means) {
  std::vector<double> totals(static_cast<size_t>(2 * channels));
  for (int64_t n = 0; n < pieces.samples; ++n) {
    for (C* side : {grad_bias, grad_weight}) {
      C* sums = side + n * channels;
      const C* part = parts + n * pieces.pieces * 2 * channels + (side == grad_bias ? 0 : channels);
      std::copy(part, part + channels, sums);
      for (int64_t i = 1; i < pieces.pieces; ++i) {
        part += 2 * channels;
        for (int64_t c = 0; c < channels; ++c) sums[c] += part[c];
      }
      double* total = totals.data() + (side == grad_bias ? 0 : channels);
      const C* factors = weight ? weight + n * weight_stride : nullptr;
      for (int64_t c = 0; c < channels; ++c) {
        total[c] += (factors ? static_cast<double>(factors[c]) : 1.0) * static_cast<double>(sums[c]);
      }
    }
  }
  const double positions = static_cast<double>(pieces.samples * pieces.positions);
  for (int64_t i = 0; i < 2 * channels; ++i) {
    means[i] = static_cast<C>(totals[static_cast<size_t>(i)] / positions);
  }
}

}  // namespace

NormOutput run_norm(const NormOperands& operands, const std::optional<Tensor>& mean,
                    const std::optional<Tensor>& variance) {
  Problem problem(operands);
  const int64_t statistics = mean ? 0 : problem.channels();
  NormOutput result{problem.new_like_input(), problem.new_sums({statistics}), problem.new_sums({statistics})};
  if (!mean) batch_statistics(problem, result.mean, result.variance);
  problem.set_statistics(mean ? *mean : result.mean, mean ? *variance : result.variance);
  problem.args().output = result.output.data_ptr();
  problem.pieces().parallel(Pieces::Order::kBackward,
                            [&](int64_t, int64_t sample, int64_t begin, int64_t end) {
                              KSHOT_CALL(batch_norm_act, problem.args(), sample, begin, end);
                            });
  return result;
}

NormGradients run_norm_backward(const Tensor& grad, const NormOperands& operands, const Tensor& mean,
                                const Tensor& variance, bool training, bool need_residual) {
  Problem problem(operands);
  problem.set_statistics(mean, variance);
  const int64_t channels = problem.channels();
  const Tensor grad_output = with_even_pixels(grad);
  NormGradients result{problem.new_like_input(), problem.new_parameter_sums(), problem.new_parameter_sums(),
                       need_residual ? problem.new_like_input() : none_like(grad)};

  cpu::BatchNormActBackward args{};
  args.forward = problem.args();
  args.grad_output = pixels_of(grad_output);
  const Pieces pieces = problem.pieces();
  const int64_t piece_bytes = 2 * channels * problem.sum_bytes();
  AlignedBuffer<char> parts(pieces.count() * piece_bytes), means(piece_bytes);
  pieces.parallel(Pieces::Order::kForward, [&](int64_t index, int64_t sample, int64_t begin, int64_t end) {
    char* own = parts.data() + index * piece_bytes;
    std::memset(own, 0, static_cast<size_t>(piece_bytes));
    KSHOT_CALL(batch_norm_act_sums, args, sample, begin, end, own);
  });
  with_sum_type(args.forward.dtype, [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    join_sums(reinterpret_cast<const C*>(parts.data()), pieces, channels,
              static_cast<const C*>(args.forward.weight), args.forward.weight_stride,
              static_cast<C*>(result.bias.data_ptr()), static_cast<C*>(result.weight.data_ptr()),
              reinterpret_cast<C*>(means.data()));
  });
  if (training) {
    args.mean_grad = means.data();
    args.mean_grad_normalised = means.data() + channels * problem.sum_bytes();
  }
  args.grad_input = result.input.data_ptr();
  args.grad_residual = need_residual ? result.residual.data_ptr() : nullptr;
  pieces.parallel(Pieces::Order::kBackward, [&](int64_t, int64_t sample, int64_t begin, int64_t end) {
    KSHOT_CALL(batch_norm_act_backward, args, sample, begin, end);
  });
  return result;
}

}  // namespace kshot
