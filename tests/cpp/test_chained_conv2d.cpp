// The kernels of chains against loops over their equations, in buffers of exactly their sizes: whole numbers,
// so that all sums are exact.
#include <cmath>
#include <string>

#include "convolutions.h"
#include "cpu/chained_conv2d.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

struct ChainKernels {
  decltype(&cpu::portable::chained_depthwise) depthwise;
  decltype(&cpu::portable::chained_depthwise_backward) depthwise_backward;
  decltype(&cpu::portable::chain_load) load;
  decltype(&cpu::portable::chain_load_gradient) load_gradient;
  decltype(&cpu::portable::chain_store) store;
  decltype(&cpu::portable::chain_store_gradient) store_gradient;
  decltype(&cpu::portable::chain_end) end;
  decltype(&cpu::portable::chain_end_backward) end_backward;
};

#define KSHOT_CHAIN_KERNELS_OF(isa)                                                           \
  ChainKernels {                                                                              \
    cpu::isa::chained_depthwise, cpu::isa::chained_depthwise_backward, cpu::isa::chain_load,  \
        cpu::isa::chain_load_gradient, cpu::isa::chain_store, cpu::isa::chain_store_gradient, \
        cpu::isa::chain_end, cpu::isa::chain_end_backward                                     \
  }

ChainKernels chain_kernels(const Kernels& kernels) {
  const std::string name = kernels.instruction_set;
#if defined(KSHOT_HAVE_AVX2)
  if (name == "avx2") return KSHOT_CHAIN_KERNELS_OF(avx2);
#endif
#if defined(KSHOT_HAVE_AVX512)
  if (name == "avx512") return KSHOT_CHAIN_KERNELS_OF(avx512);
#endif
#if defined(KSHOT_HAVE_PORTABLE)
  return KSHOT_CHAIN_KERNELS_OF(portable);
#endif
}

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

double clipped(double z) {
  return std::max(z, 0.0);
}

// A norm with a power of two as inverse deviation, so that everything stays exact.
struct Norm {
  explicit Norm(int64_t channels)
      : mean(numbers<float>(channels, 11)),
        inverse(static_cast<size_t>(channels), 0.5f),
        scale(numbers<float>(channels, 12)),
        shift(numbers<float>(channels, 13)) {}
  cpu::ChainInput of(const Floats& x) const {
    return {DType::kFloat32,   x.data(),     static_cast<int64_t>(mean.size()),
            Activation::kRelu, mean.data(),  inverse.data(),
            scale.data(),      shift.data(), 0};
  }
  double z(const Floats& x, int64_t at) const {
    const size_t c = static_cast<size_t>(at) % mean.size();
    return x[static_cast<size_t>(at)] * static_cast<double>(scale[c]) + shift[c];
  }
  Floats mean, inverse, scale, shift;
};

// What the kernels store for dL/dz, and sum.
void expect_gradient(const Norm& norm, const Floats& x, const Doubles& dz, Doubles& dx, Doubles& sums) {
  const size_t channels = norm.mean.size();
  dx.assign(x.size(), 0);
  sums.assign(2 * channels, 0);
  for (size_t at = 0; at < x.size(); ++at) {
    const size_t c = at % channels;
    const double h = norm.z(x, static_cast<int64_t>(at)) > 0 ? dz[at] : 0;
    dx[at] = h * norm.scale[c];
    sums[c] += h;
    sums[channels + c] += h * (x[at] - norm.mean[c]) * norm.inverse[c];
  }
}

bool check_depthwise(const Kernels& kernels, const Shape& shape) {
  const ConvGeometry g = shape.geometry();
  const ChainKernels chain = chain_kernels(kernels);
  const int64_t channels = g.in_channels, inputs = g.batch * g.input_size(),
                outputs = g.batch * g.output_size();
  const Norm norm(channels);
  const Floats x = numbers<float>(inputs, 1), weight = numbers<float>(g.taps() * channels, 2),
               grad = numbers<float>(outputs, 3), slope = numbers<float>(channels, 4),
               constant = numbers<float>(channels, 5), mean = numbers<float>(channels, 6);
  Doubles y(outputs), full(outputs), dz(inputs), dw(g.taps() * channels), dx, sums;
  for (int64_t n = 0; n < g.batch; ++n) {
    for_each_meeting(g, [&](int64_t output, int64_t tap, int64_t input) {
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t from = n * g.input_size() + input * channels + c;
        y[n * g.output_size() + output * channels + c] +=
            clipped(norm.z(x, from)) * weight[tap * channels + c];
      }
    });
  }
  const Floats stored(y.begin(), y.end());
  for (int64_t at = 0; at < outputs; ++at) {
    const int64_t c = at % channels;
    full[at] = grad[at] + slope[c] * (y[at] - static_cast<double>(mean[c])) + constant[c];
  }
  for (int64_t n = 0; n < g.batch; ++n) {
    for_each_meeting(g, [&](int64_t output, int64_t tap, int64_t input) {
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t from = n * g.input_size() + input * channels + c;
        const double gradient = full[n * g.output_size() + output * channels + c];
        dz[from] += gradient * weight[tap * channels + c];
        dw[tap * channels + c] += gradient * clipped(norm.z(x, from));
      }
    });
  }
  expect_gradient(norm, x, dz, dx, sums);

  const AxisTaps rows(forward_segments(g.height), g.height.output, g.height.input),
      transposed(transposed_segments(g.height), g.height.input, g.height.output);
  const auto columns = forward_segments(g.width), transposed_columns = transposed_segments(g.width);
  const cpu::ChainDepthwise args{g, &rows, &columns, norm.of(x), weight.data(), 0};
  Floats made(outputs), moments(2 * channels), gradient(inputs), own_sums(2 * channels), own_dw(dw.size());
  const cpu::DepthwiseTask all{0, g.batch, 0, channels};
  chain.depthwise(args, {DType::kFloat32, made.data(), channels, false}, all, moments.data());
  const cpu::ChainDepthwiseBackward back{
      args,
      &transposed,
      &transposed_columns,
      {DType::kFloat32, grad.data(), stored.data(), channels, mean.data(), slope.data(), constant.data()},
      {DType::kFloat32, gradient.data(), channels, false},
      0};
  chain.depthwise_backward(back, all, own_dw.data(), own_sums.data());
  Doubles means(channels), squares(channels);
  const double count = static_cast<double>(outputs) / static_cast<double>(channels);
  for (int64_t at = 0; at < outputs; ++at) means[at % channels] += y[at] / count;
  for (int64_t at = 0; at < outputs; ++at)
    squares[at % channels] += std::pow(y[at] - means[at % channels], 2);
  const Floats own_squares(moments.begin() + channels, moments.end());
  return equal("chained depthwise", kernels, made, y) && equal("its means", kernels, moments, means, 1e-3) &&
         equal("its squares", kernels, own_squares, squares, 1e-4 * count * 1e3) &&
         equal("its weight", kernels, own_dw, dw) && equal("its input", kernels, gradient, dx) &&
         equal("its sums", kernels, own_sums, sums);
}

bool check_passes(const Kernels& kernels, int64_t positions, int64_t channels) {
  const ChainKernels chain = chain_kernels(kernels);
  const int64_t size = positions * channels;
  const Norm norm(channels);
  const Floats x = numbers<float>(size, 1), y = numbers<float>(size, 2), slope = numbers<float>(channels, 4),
               constant = numbers<float>(channels, 5), residual = numbers<float>(size, 7);
  Doubles z(size), full(size), dx, sums, dz(y.begin(), y.end()), ended(size);
  for (int64_t at = 0; at < size; ++at) {
    const int64_t c = at % channels;
    z[at] = clipped(norm.z(x, at));
    ended[at] = clipped(norm.z(x, at) + residual[at]);
    full[at] = x[at] + slope[c] * (y[at] - static_cast<double>(norm.mean[c])) + constant[c];
  }
  expect_gradient(norm, x, dz, dx, sums);
  Floats values(size), gradients(size), stored(size), own_sums(2 * channels), moments(2 * channels),
      out(size);
  const cpu::ChainInput input = norm.of(x);
  const cpu::ChainGradient gradient{DType::kFloat32,  x.data(),     y.data(),       channels,
                                    norm.mean.data(), slope.data(), constant.data()};
  chain.load(input, 0, 0, positions, values.data());
  chain.load_gradient(gradient, 0, positions, gradients.data());
  chain.store_gradient(input, {DType::kFloat32, stored.data(), channels, false}, 0, 0, positions, y.data(),
                       own_sums.data());
  chain.store({DType::kFloat32, out.data(), channels, false}, 0, positions, x.data(), moments.data(), 0);
  cpu::ChainEnd end{};
  end.input = input;
  end.residual = residual.data();
  Floats finished(size), grad_input(size), grad_residual(size), end_sums(2 * channels);
  end.output = {DType::kFloat32, finished.data(), channels, false};
  end.grad = y.data();
  end.grad_input = {DType::kFloat32, grad_input.data(), channels, false};
  end.grad_residual = {DType::kFloat32, grad_residual.data(), channels, false};
  on_two_threads(positions, [&](int64_t from, int64_t to) { chain.end(end, 0, from, to); });
  chain.end_backward(end, 0, 0, positions, end_sums.data());
  Doubles slopes(size);
  for (int64_t at = 0; at < size; ++at) slopes[at] = norm.z(x, at) + residual[at] > 0 ? y[at] : 0;
  return equal("chain load", kernels, values, z) && equal("chain gradient", kernels, gradients, full) &&
         equal("chain store", kernels, stored, dx) && equal("chain sums", kernels, own_sums, sums) &&
         equal("chain output", kernels, out, Doubles(x.begin(), x.end())) &&
         equal("chain end", kernels, finished, ended) &&
         equal("chain end, residual", kernels, grad_residual, slopes);
}

}  // namespace

int main() {
  return on_all_kernels([](const Kernels& kernels) {
    bool passed = true;
    for (const int64_t channels : {1, 7, 32, 45, 130}) {
      for (const Shape& shape : {Shape{3, channels, channels, {5, 3, 1, 1, 1, 1}, {6, 3, 1, 1, 1, 1}},
                                 Shape{2, channels, channels, {9, 5, 2, 2, 2, 1}, {11, 5, 2, 2, 2, 1}},
                                 Shape{19, channels, channels, {2, 3, 1, 1, 1, 1}, {3, 3, 1, 1, 1, 1}},
                                 Shape{1, channels, channels, {7, 2, 3, 0, 1, 2}, {8, 3, 3, 2, 0, 1}}}) {
        passed = check_depthwise(kernels, shape) && passed;
      }
      for (const int64_t positions : {1, 3, 4, 70})
        passed = check_passes(kernels, positions, channels) && passed;
    }
    return passed;
  });
}
