// The pooling kernel against loops over windows in double, and its axes.
#include <limits>

#include "common/pool_axis.h"
#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

struct Case {
  int64_t samples, channels;
  PoolAxis height, width;
  int64_t gap = 0;  // elements by which pixels lie further apart than in channels_last
};

const Case kCases[] = {
    {2, 16, {5, 3, 1, 1, false, false, 0}, {7, 3, 1, 1, false, false, 0}},
    {1, 37, {8, 3, 2, 1, true, true, 0}, {6, 2, 3, 1, true, true, 0}, 5},
    {3, 5, {9, 5, 2, 2, true, false, 0}, {4, 4, 1, 0, false, false, 0}, 3},
    {2, 1, {3, 1, 4, 0, true, true, 7}, {11, 2, 4, 1, true, true, 1}},
    {1, 130, {4, 4, 4, 2, true, true, 0}, {6, 3, 5, 1, false, true, 0}},
};

template <class C>
cpu::WeightedAxis axis_of(const WeightedSources<C>& table, int64_t sources) {
  return {static_cast<int64_t>(table.first.size()),
          sources,
          table.first.data(),
          table.count.data(),
          table.of_source.data(),
          table.of_target.data()};
}

// The factor by which an input counts in an output, by the definition alone.
double share(const PoolAxis& axis, int64_t o, int64_t i) {
  int64_t inside = 0, padded = 0;
  bool holds = false;
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t at = o * axis.stride - axis.padding + k;
    if (0 <= at && at < axis.input) ++inside;
    if (at < axis.input + axis.padding) ++padded;
    holds = holds || at == i;
  }
  const int64_t divisor = axis.divisor ? axis.divisor : axis.count_include_pad ? padded : inside;
  return holds ? 1 / static_cast<double>(divisor) : 0;
}

template <class T>
bool check(const Kernels& kernels, const Case& c, DType dtype, bool backward) {
  using C = Sum<T>;
  const auto table = backward ? outputs_of_inputs<C> : pooled_inputs<C>;
  const WeightedSources<C> rows = table(c.height), columns = table(c.width);
  const int64_t inputs[] = {c.height.input, c.width.input}, outputs[] = {c.height.output(), c.width.output()};
  const int64_t* sources = backward ? outputs : inputs;
  const int64_t* targets = backward ? inputs : outputs;
  const std::vector<T> source = numbers<T>(c.samples * sources[0] * sources[1] * c.channels, 1);
  const SpreadPixels<T> spread(source, c.channels, c.gap, std::numeric_limits<T>::quiet_NaN());
  std::vector<double> expected;
  for (int64_t n = 0; n < c.samples; ++n) {
    for (int64_t y = 0; y < targets[0]; ++y) {
      for (int64_t x = 0; x < targets[1]; ++x) {
        for (int64_t channel = 0; channel < c.channels; ++channel) {
          double sum = 0;
          for (int64_t h = 0; h < sources[0]; ++h) {
            for (int64_t w = 0; w < sources[1]; ++w) {
              const double factor = backward ? share(c.height, h, y) * share(c.width, w, x)
                                             : share(c.height, y, h) * share(c.width, x, w);
              sum += factor * source[((n * sources[0] + h) * sources[1] + w) * c.channels + channel];
            }
          }
          expected.push_back(sum);
        }
      }
    }
  }
  for (const bool past_caches : {false, true}) {
    std::vector<T> target(expected.size());
    const cpu::SeparableSum args{
        dtype,         c.channels, spread.pixels(), axis_of(rows, sources[0]), axis_of(columns, sources[1]),
        target.data(), past_caches};
    on_two_threads(c.samples * targets[0],
                   [&](int64_t begin, int64_t end) { kernels.separable_sum(args, begin, end); });
    if (!equal(backward ? "pool, backward" : "pool", kernels, target, expected, 1e-5)) return false;
  }
  return true;
}

}  // namespace

int main() {
  return on_all_kernels([](const Kernels& kernels) {
    bool passed = true;
    for (const Case& c : kCases) {
      for (const bool backward : {false, true}) {
        passed = check<float>(kernels, c, DType::kFloat32, backward) && passed;
        passed = check<double>(kernels, c, DType::kFloat64, backward) && passed;
      }
    }
    return passed;
  });
}
