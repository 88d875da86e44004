// The batch norm kernels against loops over the equation in double, within rounding.
#include <cmath>
#include <limits>

#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

struct Case {
  int64_t samples, positions, channels;  // positions of a sample
  bool per_sample, residual, training;
  int64_t gap = 0;  // elements by which pixels lie further apart than in channels_last
};

const Case kCases[] = {
    {1, 7, 1, false, false, true},     {2, 9, 5, false, true, true},    {3, 33, 17, true, true, true},
    {1, 100, 64, false, false, true},  {2, 5, 130, true, false, true},  {2, 40, 33, false, true, false},
    {2, 40, 16, false, true, true, 5}, {2, 67, 5, true, true, true, 1}, {1, 150, 33, false, false, true, 31},
};

double activated(Activation activation, double z) {
  switch (activation) {
    case Activation::kRelu:
      return std::max(z, 0.0);
    case Activation::kRelu6:
      return std::min(std::max(z, 0.0), 6.0);
    case Activation::kSilu:
      return z / (1 + std::exp(-z));
    case Activation::kHardswish:
      return z * std::min(std::max(z + 3, 0.0), 6.0) / 6;
    default:
      return z;
  }
}

double slope_at(Activation activation, double z) {
  const double step = 1e-6;  // no argument lies on a corner: see `numbers` below
  return (activated(activation, z + step) - activated(activation, z - step)) / (2 * step);
}

template <class T>
bool check(const Kernels& kernels, const Case& c, Activation activation, DType dtype) {
  const int64_t all = c.samples * c.positions, size = all * c.channels, rows = c.per_sample ? c.samples : 1;
  std::vector<T> x = numbers<T>(size, 1), residual = numbers<T>(size, 2), g = numbers<T>(size, 3),
                 weight = numbers<T>(rows * c.channels, 4), bias = numbers<T>(rows * c.channels, 5);
  for (T& value : bias) value += T(0.3712);  // off the corners of the activations
  for (T& value : x) value *= T(1.0173);
  std::vector<T> moments(4 * c.channels), mean(c.channels), inverse(c.channels);
  std::vector<double> mean_exact(c.channels), variance(c.channels);
  for (int64_t i = 0; i < c.channels; ++i) {
    for (int64_t p = 0; p < all; ++p) mean_exact[i] += x[p * c.channels + i] / static_cast<double>(all);
    for (int64_t p = 0; p < all; ++p) {
      variance[i] += std::pow(x[p * c.channels + i] - mean_exact[i], 2) / static_cast<double>(all);
    }
    mean[i] = static_cast<T>(mean_exact[i]);
    inverse[i] = static_cast<T>(1 / std::sqrt(variance[i] + 1e-3));
  }
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const SpreadPixels<T> px(x, c.channels, c.gap, nan), pr(residual, c.channels, 2 * c.gap, nan),
      pg(g, c.channels, 3 * c.gap, nan);
  kernels.batch_norm_moments(dtype, px.pixels(), c.channels, 0, all, moments.data());
  std::vector<double> squares = variance;
  for (double& value : squares) value *= static_cast<double>(all);
  const double unit = std::is_same_v<T, float> ? 1e-3 : 1e-6;
  if (!equal("means", kernels, moments, mean_exact, unit)) return false;
  moments.erase(moments.begin(), moments.begin() + c.channels);
  if (!equal("squares", kernels, moments, squares, unit * static_cast<double>(all))) return false;

  std::vector<double> y(size), dx(size), dr(size), sums(rows * 2 * c.channels), means(2 * c.channels);
  const auto xhat = [&](int64_t at) {
    return (x[at] - static_cast<double>(mean[at % c.channels])) * inverse[at % c.channels];
  };
  const auto row_of = [&](int64_t at) { return c.per_sample ? at / c.channels / c.positions : 0; };
  for (int64_t at = 0; at < size; ++at) {
    const int64_t i = at % c.channels, row = row_of(at);
    const double z = xhat(at) * weight[row * c.channels + i] + bias[row * c.channels + i] +
                     (c.residual ? residual[at] : 0);
    y[at] = activated(activation, z);
    dr[at] = g[at] * slope_at(activation, z);
    sums[row * 2 * c.channels + i] += dr[at];
    sums[row * 2 * c.channels + c.channels + i] += dr[at] * xhat(at);
    means[i] += dr[at] * weight[row * c.channels + i] / static_cast<double>(all);
    means[c.channels + i] += dr[at] * xhat(at) * weight[row * c.channels + i] / static_cast<double>(all);
  }
  for (int64_t at = 0; at < size; ++at) {
    const int64_t i = at % c.channels;
    const double mean_part = c.training ? means[i] + xhat(at) * means[c.channels + i] : 0;
    dx[at] = inverse[i] * (dr[at] * weight[row_of(at) * c.channels + i] - mean_part);
  }

  std::vector<T> ty(size), tdx(size), tdr(size), tsums(sums.size()), tmeans(means.begin(), means.end());
  const int64_t stride = c.per_sample ? c.channels : 0;
  cpu::BatchNormAct args{dtype,         activation,
                         c.channels,    c.per_sample ? c.positions : all,
                         px.pixels(),   c.residual ? pr.pixels() : Pixels<void>{nullptr, 0},
                         mean.data(),   inverse.data(),
                         weight.data(), bias.data(),
                         stride,        stride,
                         ty.data(),     false};
  cpu::BatchNormActBackward back{args, pg.pixels(), nullptr, nullptr, tdx.data(), tdr.data()};
  if (c.training) {
    back.mean_grad = tmeans.data();
    back.mean_grad_normalised = tmeans.data() + c.channels;
  }
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t first = n * c.positions, count = all / rows;
    on_two_threads(count, [&](int64_t begin, int64_t end) {
      kernels.batch_norm_act(args, n, first + begin, first + end);
      kernels.batch_norm_act_backward(back, n, first + begin, first + end);
    });
    kernels.batch_norm_act_sums(back, n, first, first + count, tsums.data() + n * 2 * c.channels);
  }
  return equal("batch norm", kernels, ty, y, 1e-3) && equal("batch norm, input", kernels, tdx, dx, 1e-3) &&
         equal("batch norm, residual", kernels, tdr, dr, 1e-3) &&
         equal("batch norm, sums", kernels, tsums, sums, 1e-2);
}

}  // namespace

int main() {
  return on_all_kernels([](const Kernels& kernels) {
    bool passed = true;
    for (const Case& c : kCases) {
      for (int64_t activation = 0; activation < kActivations; ++activation) {
        passed = check<float>(kernels, c, static_cast<Activation>(activation), DType::kFloat32) && passed;
        passed = check<double>(kernels, c, static_cast<Activation>(activation), DType::kFloat64) && passed;
      }
    }
    return passed;
  });
}
