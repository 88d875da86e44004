// The AdamW kernel against a loop over the rule in double; whole numbers make the moments exact.
#include <cmath>
#include <limits>

#include "updates.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

struct Case {
  UpdateShape shape;
  bool dense, amsgrad, maximize;
};

const Case kCases[] = {
    {{1, 1, 1, 1, 1, 1}, false, false, false},   {{3, 5, 1, 70, 4, 33}, false, true, true},
    {{2, 3, 9, 17, 3, 17}, false, false, false}, {{4, 2, 1, 1100, 2, 1100}, false, true, false},
    {{2, 7, 3, 5, 7, 5}, true, false, true},
};

template <class T>
bool check(const Kernels& kernels, const Case& c, DType dtype) {
  UpdateCase<T> update(c.shape, c.dense, c.maximize, dtype);
  std::vector<T> first = numbers<T>(update.size(), 2), second = numbers<T>(update.size(), 7),
                 largest = numbers<T>(update.size(), 8);
  for (T& value : second) value *= value;
  for (T& value : largest) value *= 4 * value;
  std::vector<double> expected(update.weight.begin(), update.weight.end()), m(first.begin(), first.end()),
      v(second.begin(), second.end()), u(largest.begin(), largest.end());
  for (int64_t at = 0; at < update.size(); ++at) {  // in step 2, lr 0.25, decay 0.5, betas 0.5 and 0.75
    const double g = update.gradient(at);
    m[at] = 0.5 * m[at] + 0.5 * g;
    v[at] = 0.75 * v[at] + 0.25 * g * g;
    if (c.amsgrad) u[at] = std::max(u[at], v[at]);
    const double root = std::sqrt((c.amsgrad ? u[at] : v[at]) / (1 - 0.75 * 0.75));
    expected[at] = (1 - 0.25 * 0.5) * expected[at] - 0.25 / (1 - 0.5 * 0.5) * m[at] / (root + 0.125);
  }
  AdamwUpdate args{update.args, first.data(), second.data(), c.amsgrad ? largest.data() : nullptr,
                   0.5,         0.75,         0.125};
  args.set_step(2, 0.25, 0.5);
  on_two_threads(update.rows(), [&](int64_t begin, int64_t end) { kernels.adamw_update(args, begin, end); });
  return equal("exp_avg", kernels, first, m) && equal("exp_avg_sq", kernels, second, v) &&
         equal("max_exp_avg_sq", kernels, largest, u) &&
         equal("weight", kernels, update.weight, expected, 64 * std::numeric_limits<T>::epsilon());
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
