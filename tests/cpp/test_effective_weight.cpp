// The mixing kernel, forward and backward, against a loop over the equation in double, on every instruction
// set that this processor has. Whole numbers make every sum exact, so the comparison has no tolerance.
#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;
using cpu::EffectiveWeightBackward;

// One dictionary [K, C_out, runs, run], of which a call uses the leading `rows` channels and `run_length`
// elements.
struct Case {
  int64_t shots, samples, out_channels, runs, run, rows, run_length;
  bool gated, code_per_row = false;

  MixGeometry geometry() const {
    MixGeometry g{};
    g.shots = shots;
    g.samples = samples;
    g.rows = rows;
    g.runs = runs;
    g.run_length = g.last_run_length = run_length;
    g.run_stride = run;
    g.row_stride = runs * run;
    g.shot_stride = out_channels * g.row_stride;
    g.sample_size = rows * runs * run_length;
    return g;
  }
};

const Case kCases[] = {
    {1, 1, 3, 1, 7, 3, 7, false},        {4, 1, 5, 1, 64, 5, 64, true},
    {8, 3, 5, 1, 131, 4, 97, true},      {5, 2, 2, 9, 17, 2, 13, false},
    {3, 1, 1, 1, 1, 1, 1, true},         {7, 2, 3, 2, 700, 2, 600, true},
    {16, 1, 2, 1, 513, 2, 513, true},    {5, 3, 4, 1, 70, 4, 70, false, true},
    {2, 2, 3, 2, 19, 2, 17, true, true},
};

template <class T>
bool check(const Kernels& kernels, const Case& c, DType dtype) {
  const MixGeometry g = c.geometry();
  const auto weight = numbers<T>(g.shots * g.shot_stride, 1);
  const int64_t code_row_stride = c.code_per_row ? g.samples * g.shots : 0;
  const auto code = numbers<T>((c.code_per_row ? g.rows : 1) * g.samples * g.shots, 2);
  const auto code_at = [&](int64_t n, int64_t row, int64_t k) {
    return row * code_row_stride + n * g.shots + k;
  };
  const auto gate = numbers<T>(g.samples * g.rows, 3);
  const auto grad = numbers<T>(g.samples * g.sample_size, 4);
  std::vector<T> output(grad.size()), grad_weight(weight.size()), row_dots(g.samples * g.rows * g.shots);
  std::vector<double> mixed(output.size()), expected_grad_weight(weight.size()),
      expected_dots(row_dots.size());
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t row = 0; row < g.rows; ++row) {
      const double factor = c.gated ? gate[n * g.rows + row] : 1;
      for (int64_t k = 0; k < g.shots; ++k) {
        for (int64_t run = 0; run < g.runs; ++run) {
          for (int64_t i = 0; i < g.run_length; ++i) {
            const int64_t from = k * g.shot_stride + g.weight_offset(row, run) + i;
            const int64_t to = n * g.sample_size + g.packed_offset(row, run) + i;
            mixed[to] += factor * code[code_at(n, row, k)] * weight[from];
            expected_grad_weight[from] += factor * code[code_at(n, row, k)] * grad[to];
            expected_dots[(n * g.rows + row) * g.shots + k] += static_cast<double>(grad[to]) * weight[from];
          }
        }
      }
    }
  }

  EffectiveWeight forward{};
  forward.geometry = g;
  forward.dtype = dtype;
  forward.weight = weight.data();
  forward.code = code.data();
  forward.gate = c.gated ? gate.data() : nullptr;
  forward.gate_stride = g.rows;
  forward.output = output.data();
  forward.code_row_stride = code_row_stride;
  EffectiveWeightBackward backward{};
  backward.forward = forward;
  backward.grad = grad.data();
  backward.grad_weight = grad_weight.data();
  backward.row_dots = row_dots.data();
  on_two_threads(g.rows, [&](int64_t begin, int64_t end) {
    kernels.effective_weight(forward, begin, end);
    kernels.effective_weight_backward(backward, begin, end);
  });
  std::vector<T> grad_code(code.size()), grad_gate(gate.size());
  std::vector<double> expected_code(code.size()), expected_gate(gate.size());
  for (int64_t n = 0; n < g.samples; ++n) {
    for (int64_t row = 0; row < g.rows; ++row) {
      for (int64_t k = 0; k < g.shots; ++k) {
        const double dot = expected_dots[(n * g.rows + row) * g.shots + k];
        expected_code[code_at(n, row, k)] += (c.gated ? gate[n * g.rows + row] : 1) * dot;
        expected_gate[n * g.rows + row] += code[code_at(n, row, k)] * dot;
      }
    }
  }
  kernels.effective_weight_reduce({&backward, grad_code.data(), c.gated ? grad_gate.data() : nullptr});
  if (!equal("gradient of code", kernels, grad_code, expected_code)) return false;
  if (c.gated && !equal("gradient of gate", kernels, grad_gate, expected_gate)) return false;
  return equal("effective weight", kernels, output, mixed) &&
         equal("gradient of weight", kernels, grad_weight, expected_grad_weight) &&
         equal("row dots", kernels, row_dots, expected_dots);
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
