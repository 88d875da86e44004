// The SGD kernel against a loop over the rule in double; whole numbers make every step exact.
#include "updates.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

struct Case {
  UpdateShape shape;
  bool dense, momentum, nesterov, maximize;
};

const Case kCases[] = {
    {{1, 1, 1, 1, 1, 1}, false, true, false, false},    {{3, 5, 1, 70, 4, 33}, false, true, true, true},
    {{2, 3, 9, 17, 3, 17}, false, false, false, false}, {{4, 2, 1, 1100, 2, 1100}, false, true, true, false},
    {{2, 7, 3, 5, 7, 5}, true, true, false, true},
};

template <class T>
bool check(const Kernels& kernels, const Case& c, DType dtype) {
  UpdateCase<T> update(c.shape, c.dense, c.maximize, dtype);
  std::vector<T> buffer = numbers<T>(update.size(), 2);
  std::vector<double> expected(update.weight.begin(), update.weight.end()),
      expected_buffer(buffer.begin(), buffer.end());
  for (int64_t at = 0; at < update.size(); ++at) {
    double step = update.gradient(at) + 0.5 * expected[at];
    if (c.momentum) {
      expected_buffer[at] = 0.5 * expected_buffer[at] + 0.75 * step;
      step = c.nesterov ? step + 0.5 * expected_buffer[at] : expected_buffer[at];
    }
    expected[at] -= 0.25 * step;
  }
  const SgdUpdate args{update.args, c.momentum ? buffer.data() : nullptr, 0.25, 0.5, 0.25, 0.5, c.nesterov};
  on_two_threads(update.rows(), [&](int64_t begin, int64_t end) { kernels.sgd_update(args, begin, end); });
  return equal("weight", kernels, update.weight, expected) &&
         equal("momentum", kernels, buffer, expected_buffer);
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
