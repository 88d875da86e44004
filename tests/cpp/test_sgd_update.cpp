// The SGD kernel against a loop over the rule in double; whole numbers make every step exact.
#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

// A dictionary [K, rows, runs, run], with two uses of its leading `active` rows and `length` elements of a
// run.
struct Case {
  int64_t shots, rows, runs, run, active, length;
  bool dense, momentum, nesterov, maximize;
};

const Case kCases[] = {
    {1, 1, 1, 1, 1, 1, false, true, false, false},    {3, 5, 1, 70, 4, 33, false, true, true, true},
    {2, 3, 9, 17, 3, 17, false, false, false, false}, {4, 2, 1, 1100, 2, 1100, false, true, true, false},
    {2, 7, 3, 5, 7, 5, true, true, false, true},
};

template <class T>
bool check(const Kernels& kernels, const Case& c, DType dtype) {
  MixGeometry g{};
  g.shots = c.shots;
  g.samples = 1;
  g.rows = c.rows;
  g.runs = c.runs;
  g.run_length = g.last_run_length = g.run_stride = c.run;
  g.row_stride = c.runs * c.run;
  g.shot_stride = c.rows * g.row_stride;
  const int64_t size = c.shots * g.shot_stride, use_size = c.active * c.runs * c.length;
  std::vector<T> weight = numbers<T>(size, 1), buffer = numbers<T>(size, 2), dense = numbers<T>(size, 3);
  const auto code = numbers<T>(2 * c.shots, 4), gate = numbers<T>(c.active, 5),
             use_grad = numbers<T>(2 * use_size, 6);
  std::vector<double> expected(weight.begin(), weight.end()), expected_buffer(buffer.begin(), buffer.end());
  for (int64_t k = 0; k < c.shots; ++k) {
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t i = 0; i < g.row_stride; ++i) {
        const int64_t at = k * g.shot_stride + row * g.row_stride + i, run = i / c.run, in_run = i % c.run;
        double grad = c.dense ? dense[at] : 0;
        if (!c.dense && row < c.active && in_run < c.length) {
          const int64_t from = (row * c.runs + run) * c.length + in_run;
          grad = static_cast<double>(code[k]) * gate[row] * use_grad[from] +
                 static_cast<double>(code[c.shots + k]) * use_grad[use_size + from];
        }
        double step = (c.maximize ? -1 : 1) * grad + 0.5 * expected[at];
        if (c.momentum) {
          expected_buffer[at] = 0.5 * expected_buffer[at] + 0.75 * step;
          step = c.nesterov ? step + 0.5 * expected_buffer[at] : expected_buffer[at];
        }
        expected[at] -= 0.25 * step;
      }
    }
  }
  const SgdUse uses[] = {{code.data(), gate.data(), use_grad.data(), c.active, c.length},
                         {code.data() + c.shots, nullptr, use_grad.data() + use_size, c.active, c.length}};
  SgdUpdate args{g,
                 dtype,
                 weight.data(),
                 c.momentum ? buffer.data() : nullptr,
                 c.dense ? dense.data() : nullptr,
                 uses,
                 c.dense ? 0 : 2,
                 0.25,
                 0.5,
                 0.25,
                 0.5,
                 c.nesterov,
                 c.maximize};
  on_two_threads(c.rows, [&](int64_t begin, int64_t end) { kernels.sgd_update(args, begin, end); });
  return equal("weight", kernels, weight, expected) && equal("momentum", kernels, buffer, expected_buffer);
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
