// The kernel that mixes under a dynamic grouping, forward and backward, against a loop over the equation in
// double, on every instruction set that this processor has. Whole numbers make every sum exact.
#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;
using cpu::DynamicGroupWeightBackward;

// A dictionary [K, C_out, C_in, taps], channels innermost or not, whose gates are the bits of `open`, the
// first the highest; a gate of 2 for the last where `real`.
struct Case {
  int64_t shots, samples, gates, row_block, column_block, taps;
  int open;
  bool innermost, real;

  int64_t rows() const { return row_block << gates; }
  int64_t columns() const { return column_block << gates; }
  MixGeometry geometry() const {
    MixGeometry g{};
    g.shots = shots;
    g.samples = samples;
    g.rows = rows();
    g.runs = innermost ? taps : 1;
    g.run_length = g.last_run_length = innermost ? columns() : columns() * taps;
    g.run_stride = g.run_length;
    g.row_stride = columns() * taps;
    g.shot_stride = g.sample_size = rows() * g.row_stride;
    return g;
  }
  double gate(int64_t j) const { return real && j + 1 == gates ? 2 : (open >> (gates - 1 - j)) & 1; }
  double relation(int64_t bits, int64_t left_out = -1) const {
    double product = 1;
    for (int64_t j = 0; j < gates; ++j) {
      if (j != left_out && ((bits >> (gates - 1 - j)) & 1)) product *= gate(j);
    }
    return product;
  }
};

const Case kCases[] = {
    {1, 1, 0, 3, 5, 1, 0, false, false},      {4, 1, 3, 1, 1, 9, 0b011, false, false},
    {8, 2, 3, 1, 1, 9, 0b101, true, false},   {5, 3, 2, 2, 3, 4, 0b00, false, false},
    {3, 1, 2, 1, 3, 1, 0b10, true, true},     {7, 2, 1, 2, 350, 2, 0b1, false, false},
    {16, 1, 4, 2, 1, 1, 0b1010, false, true},
};

template <class T>
bool check(const Kernels& kernels, const Case& c, DType dtype) {
  const MixGeometry g = c.geometry();
  const auto weight = numbers<T>(g.shots * g.shot_stride, 1);
  const auto code = numbers<T>(g.samples * g.shots, 2);
  const auto grad = numbers<T>(g.samples * g.sample_size, 4);
  std::vector<T> gates(static_cast<size_t>(c.gates));
  for (int64_t j = 0; j < c.gates; ++j) gates[j] = static_cast<T>(c.gate(j));
  std::vector<double> mixed(grad.size()), expected_weight(weight.size()), expected_code(code.size()),
      expected_gates(gates.size());
  for (int64_t e = 0; e < g.sample_size; ++e) {
    const int64_t row = e / g.row_stride, in_row = e % g.row_stride;
    const int64_t column = c.innermost ? in_row % c.columns() : in_row / c.taps;
    const int64_t bits = (row / c.row_block) ^ (column / c.column_block);
    for (int64_t n = 0; n < g.samples; ++n) {
      const double of_grad = grad[n * g.sample_size + e];
      double sum = 0;
      for (int64_t k = 0; k < g.shots; ++k) {
        const double factor = code[n * g.shots + k], value = weight[k * g.shot_stride + e];
        sum += factor * value;
        expected_weight[k * g.shot_stride + e] += c.relation(bits) * factor * of_grad;
        expected_code[n * g.shots + k] += c.relation(bits) * of_grad * value;
      }
      mixed[n * g.sample_size + e] = c.relation(bits) * sum;
      for (int64_t j = 0; j < c.gates; ++j) {
        if ((bits >> (c.gates - 1 - j)) & 1) expected_gates[j] += c.relation(bits, j) * of_grad * sum;
      }
    }
  }

  std::vector<T> output(grad.size()), grad_weight(weight.size()), row_dots(g.samples * g.rows * g.shots),
      block_sums(g.rows << c.gates), grad_code(code.size()), grad_gates(gates.size());
  GroupWeight forward{};
  forward.mixing.geometry = g;
  forward.mixing.dtype = dtype;
  forward.mixing.weight = weight.data();
  forward.mixing.code = code.data();
  forward.mixing.output = output.data();
  forward.groups = {c.gates, c.row_block, g.run_length >> c.gates, gates.data()};
  DynamicGroupWeightBackward backward{};
  backward.forward = forward;
  backward.grad = grad.data();
  backward.grad_weight = grad_weight.data();
  backward.row_dots = row_dots.data();
  backward.block_sums = block_sums.data();
  on_two_threads(g.rows, [&](int64_t begin, int64_t end) {
    kernels.dynamic_group_weight(forward, begin, end);
    kernels.dynamic_group_weight_backward(backward, begin, end);
  });
  kernels.dynamic_group_weight_reduce({&backward, grad_code.data(), grad_gates.data()});
  return equal("effective weight", kernels, output, mixed) &&
         equal("gradient of weight", kernels, grad_weight, expected_weight) &&
         equal("gradient of code", kernels, grad_code, expected_code) &&
         equal("gradient of gates", kernels, grad_gates, expected_gates);
}

}  // namespace

int main() {
  return on_all_kernels([](const Kernels& kernels) {
    bool passed = true;
    for (const Case& c : kCases) {
      passed = check<float>(kernels, c, DType::kFloat32) && passed;
      passed = check<double>(kernels, c, DType::kFloat64) && passed;
    }
    return passed;
  });
}
