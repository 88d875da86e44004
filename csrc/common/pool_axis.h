// One axis of an average pooling: its windows, and what each side of it reads of the other, torch-free.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace kshot {

// Output o is the mean over inputs o * stride - padding to o * stride - padding + kernel - 1, those that
// exist.
struct PoolAxis {
  int64_t input, kernel, stride, padding;
  bool ceil_mode;          // whether a last window may reach over the end
  bool count_include_pad;  // whether positions of the padding count, as zeros
  int64_t divisor;         // what sums are divided by; 0 for the count of the window's positions

  int64_t output() const {
    const int64_t room = input + 2 * padding - kernel;
    int64_t outputs = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
    if (ceil_mode && (outputs - 1) * stride >= input + padding) --outputs;  // it would see padding alone
    return outputs;
  }
  int64_t first(int64_t o) const { return std::max<int64_t>(0, o * stride - padding); }
  int64_t end(int64_t o) const { return std::min(input, o * stride - padding + kernel); }
  double factor(int64_t o) const {
    if (divisor) return 1.0 / static_cast<double>(divisor);
    const int64_t start = o * stride - padding;
    const int64_t count =
        count_include_pad ? std::min(start + kernel, input + padding) - start : end(o) - first(o);
    return 1.0 / static_cast<double>(count);
  }
};

// What is wrong with an axis, in the user's terms, or null; torch's rules.
inline const char* error_of(const PoolAxis& axis) {
  constexpr int64_t kMost = INT32_MAX;
  if (axis.input < 1 || axis.input > kMost)
    return "an image must have 1 to 2^31 - 1 positions along each side";
  if (axis.kernel < 1 || axis.kernel > kMost) return "kernel_size must be 1 to 2^31 - 1";
  if (axis.stride < 1 || axis.stride > kMost) return "stride must be 1 to 2^31 - 1";
  if (axis.padding < 0 || axis.padding > axis.kernel / 2) return "padding must be 0 to half of kernel_size";
  if (axis.input + 2 * axis.padding < axis.kernel) return "kernel_size must fit into the padded image";
  return nullptr;
}

// For each target its neighbouring sources, [first, first + count); the factors of both.
template <class C>
struct WeightedSources {
  std::vector<int32_t> first, count;
  std::vector<C> of_target, of_source;
};

// Forward: targets are outputs, sources inputs.
template <class C>
WeightedSources<C> pooled_inputs(const PoolAxis& axis) {
  WeightedSources<C> result;
  for (int64_t o = 0; o < axis.output(); ++o) {
    const int64_t first = axis.first(o);
    result.first.push_back(static_cast<int32_t>(first));
    result.count.push_back(static_cast<int32_t>(std::max<int64_t>(0, axis.end(o) - first)));
    result.of_target.push_back(static_cast<C>(axis.factor(o)));
  }
  result.of_source.assign(static_cast<size_t>(axis.input), C(1));
  return result;
}

// Backward: targets are inputs, sources the outputs whose windows hold them.
template <class C>
WeightedSources<C> outputs_of_inputs(const PoolAxis& axis) {
  WeightedSources<C> result;
  const int64_t outputs = axis.output();
  for (int64_t i = 0; i < axis.input; ++i) {
    const int64_t past = std::max<int64_t>(0, i + axis.padding - axis.kernel + axis.stride);
    const int64_t first = std::min(past / axis.stride, outputs);
    const int64_t end = std::min((i + axis.padding) / axis.stride + 1, outputs);
    result.first.push_back(static_cast<int32_t>(first));
    result.count.push_back(static_cast<int32_t>(std::max<int64_t>(0, end - first)));
  }
  for (int64_t o = 0; o < outputs; ++o) result.of_source.push_back(static_cast<C>(axis.factor(o)));
  result.of_target.assign(static_cast<size_t>(axis.input), C(1));
  return result;
}

}  // namespace kshot
