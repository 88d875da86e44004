// All copies of a linear map applied to a batch, against loops over its definition.
#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

struct Shape {
  int64_t samples, shots, out, in;
};

const Shape kShapes[] = {{1, 1, 1, 1},    {2, 3, 5, 4},   {9, 2, 7, 16},
                         {13, 3, 26, 33}, {4, 5, 13, 70}, {17, 2, 3, 130}};

struct Expected {
  std::vector<double> output, grad_input, grad_code, grad_weight;
};

struct Operands {
  explicit Operands(const Shape& s)
      : weight(numbers<float>(s.shots * s.out * s.in, 1)),
        input(numbers<float>(s.samples * s.in, 2)),
        code(numbers<float>(s.samples * s.shots, 3)),
        bias(numbers<float>(s.samples * s.out, 4)),
        grad(numbers<float>(s.samples * s.out, 5)) {}

  std::vector<float> weight, input, code, bias, grad;
};

Expected expected_of(const Shape& s, const Operands& operands) {
  const auto& [weight, input, code, bias, grad] = operands;
  Expected e{{bias.begin(), bias.end()},
             std::vector<double>(input.size()),
             std::vector<double>(code.size()),
             std::vector<double>(weight.size())};
  for (int64_t n = 0; n < s.samples; ++n) {
    for (int64_t k = 0; k < s.shots; ++k) {
      for (int64_t o = 0; o < s.out; ++o) {
        for (int64_t i = 0; i < s.in; ++i) {
          const double w = weight[(k * s.out + o) * s.in + i], x = input[n * s.in + i],
                       c = code[n * s.shots + k], g = grad[n * s.out + o];
          e.output[n * s.out + o] += c * w * x;
          e.grad_input[n * s.in + i] += c * w * g;
          e.grad_code[n * s.shots + k] += w * x * g;
          e.grad_weight[(k * s.out + o) * s.in + i] += c * x * g;
        }
      }
    }
  }
  return e;
}

// Blocks of `rows` output channels and panels of the kernels' width, their shares joined.
bool check(const Kernels& kernels, const Shape& s, int64_t rows, int64_t gap) {
  const Operands operands(s);
  const Expected expected = expected_of(s, operands);
  const SpreadPixels<float> input(operands.input, s.in, gap, -1e30f), grad(operands.grad, s.out, gap, -1e30f);
  const cpu::StackedLinear args{operands.weight.data(),
                                s.out * s.in,
                                s.in,
                                s.shots,
                                s.out,
                                s.in,
                                input.pixels<float>().data,
                                input.pixels<float>().stride,
                                s.samples,
                                operands.code.data()};
  std::vector<float> scaled(static_cast<size_t>(s.samples * s.shots * s.in)), output(expected.output.size());
  on_two_threads(s.samples,
                 [&](int64_t begin, int64_t end) { kernels.stacked_rows(args, scaled.data(), begin, end); });
  on_two_threads(s.out, [&](int64_t begin, int64_t end) {
    kernels.stacked_linear(args, scaled.data(), operands.bias.data(), output.data(), begin, end);
  });

  int64_t width = 0;
  kernels.choose_panel_width(s.in, width);
  std::vector<float> grad_weight(operands.weight.size());
  std::vector<double> grad_input(expected.grad_input.size()), grad_code(expected.grad_code.size());
  const cpu::StackedGradients gradients{args, grad.pixels<float>().data, grad.pixels<float>().stride};
  for (int64_t row = 0; row < s.out; row += rows) {
    std::vector<float> part(grad_input.size(), 7.0f);  // must be overwritten
    for (int64_t lane = 0; lane < s.in; lane += width) {
      std::vector<float> dots(grad_code.size(), 7.0f);
      kernels.stacked_linear_backward(
          gradients, {row, std::min(row + rows, s.out), lane, std::min(lane + width, s.in), part.data(),
                      dots.data(), grad_weight.data()});
      for (size_t i = 0; i < dots.size(); ++i) grad_code[i] += dots[i];
    }
    for (size_t i = 0; i < part.size(); ++i) grad_input[i] += part[i];
  }
  return equal("stacked output", kernels, output, expected.output) &&
         equal("stacked, input", kernels, grad_input, expected.grad_input) &&
         equal("stacked, code", kernels, grad_code, expected.grad_code) &&
         equal("stacked, weight", kernels, grad_weight, expected.grad_weight);
}

}  // namespace

int main() {
  return on_all_kernels([](const Kernels& kernels) {
    bool passed = true;
    for (const Shape& shape : kShapes) {
      passed = check(kernels, shape, shape.out, 0) && check(kernels, shape, 12, 3) && passed;
    }
    return passed;
  });
}
