// The mixing kernel, forward and backward, against a loop over the equation in double, on every instruction
// set that this processor has. Whole numbers make every sum exact, so the comparison has no tolerance.
#include "cpu/effective_weight.h"

#include <cstdio>
#include <vector>

namespace {

using kshot::DType;
using kshot::EffectiveWeight;
using kshot::MixGeometry;
using kshot::cpu::EffectiveWeightBackward;

struct Kernels {
  const char* instruction_set;
  bool available;
  void (*forward)(const EffectiveWeight&, int64_t, int64_t);
  void (*backward)(const EffectiveWeightBackward&, int64_t, int64_t);
};

#define KERNELS(isa, available)                                                                    \
  Kernels {                                                                                        \
    #isa, available, kshot::cpu::isa::effective_weight, kshot::cpu::isa::effective_weight_backward \
  }

std::vector<Kernels> all_kernels() {
  std::vector<Kernels> kernels{KERNELS(portable, true)};
#if defined(KSHOT_HAVE_AVX2)
  kernels.push_back(KERNELS(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
#endif
#if defined(KSHOT_HAVE_AVX512)
  kernels.push_back(KERNELS(avx512, __builtin_cpu_supports("avx512bw") &&
                                        __builtin_cpu_supports("avx512dq") &&
                                        __builtin_cpu_supports("avx512vl")));
#endif
  return kernels;
}

// One dictionary [K, C_out, runs, run], of which a call uses the leading `rows` channels and `run_length`
// elements.
struct Case {
  int64_t shots, samples, out_channels, runs, run, rows, run_length;
  bool gated;

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
    {1, 1, 3, 1, 7, 3, 7, false},     {4, 1, 5, 1, 64, 5, 64, true}, {8, 3, 5, 1, 131, 4, 97, true},
    {5, 2, 2, 9, 17, 2, 13, false},   {3, 1, 1, 1, 1, 1, 1, true},   {7, 2, 3, 2, 700, 2, 600, true},
    {16, 1, 2, 1, 513, 2, 513, true},
};

// Small whole numbers from a fixed sequence.
template <class T>
std::vector<T> numbers(int64_t size, uint32_t seed) {
  std::vector<T> values(static_cast<size_t>(size));
  for (T& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<T>(static_cast<int>(seed >> 29) - 3);
  }
  return values;
}

template <class T>
bool equal(const char* what, const Kernels& kernels, const std::vector<T>& got,
           const std::vector<double>& expected) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (static_cast<double>(got[i]) != expected[i]) {
      std::printf("%s on %s: element %zu is %g, expected %g\n", what, kernels.instruction_set, i,
                  static_cast<double>(got[i]), expected[i]);
      return false;
    }
  }
  return true;
}

template <class T>
bool check(const Kernels& kernels, const Case& c, DType dtype) {
  const MixGeometry g = c.geometry();
  const auto weight = numbers<T>(g.shots * g.shot_stride, 1);
  const auto code = numbers<T>(g.samples * g.shots, 2);
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
            mixed[to] += factor * code[n * g.shots + k] * weight[from];
            expected_grad_weight[from] += factor * code[n * g.shots + k] * grad[to];
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
  EffectiveWeightBackward backward{};
  backward.forward = forward;
  backward.grad = grad.data();
  backward.grad_weight = grad_weight.data();
  backward.row_dots = row_dots.data();
  // Two calls, as two threads would make them.
  for (const auto& [begin, end] : {std::pair{int64_t{0}, g.rows / 2}, std::pair{g.rows / 2, g.rows}}) {
    kernels.forward(forward, begin, end);
    kernels.backward(backward, begin, end);
  }
  return equal("effective weight", kernels, output, mixed) &&
         equal("gradient of weight", kernels, grad_weight, expected_grad_weight) &&
         equal("row dots", kernels, row_dots, expected_dots);
}

}  // namespace

int main() {
  bool passed = true;
  for (const Kernels& kernels : all_kernels()) {
    std::printf("%s: %s\n", kernels.instruction_set, kernels.available ? "tested" : "not on this processor");
    if (!kernels.available) continue;
    for (const Case& c : kCases) {
      passed = check<float>(kernels, c, DType::kFloat32) && passed;
      passed = check<double>(kernels, c, DType::kFloat64) && passed;
    }
  }
  return passed ? 0 : 1;
}
