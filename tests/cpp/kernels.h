// What the C++ tests share: the kernels of every instruction set, exact numbers, comparison, and threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "cpu/adamw_update.h"
#include "cpu/avg_pool2d.h"
#include "cpu/batch_norm_act.h"
#include "cpu/dense_conv2d.h"
#include "cpu/depthwise_conv2d.h"
#include "cpu/dtw_align.h"
#include "cpu/dynamic_group_weight.h"
#include "cpu/effective_weight.h"
#include "cpu/sgd_update.h"
#include "cpu/stacked_linear.h"

namespace kshot::tests {

struct Kernels {
  const char* instruction_set;
  bool available;
  decltype(&cpu::portable::separable_sum) separable_sum;
  decltype(&cpu::portable::effective_weight) effective_weight;
  decltype(&cpu::portable::effective_weight_backward) effective_weight_backward;
  decltype(&cpu::portable::effective_weight_reduce) effective_weight_reduce;
  decltype(&cpu::portable::dynamic_group_weight) dynamic_group_weight;
  decltype(&cpu::portable::dynamic_group_weight_backward) dynamic_group_weight_backward;
  decltype(&cpu::portable::dynamic_group_weight_reduce) dynamic_group_weight_reduce;
  decltype(&cpu::portable::dtw_align) dtw_align;
  decltype(&cpu::portable::dtw_align_backward) dtw_align_backward;
  decltype(&cpu::portable::adamw_update) adamw_update;
  decltype(&cpu::portable::sgd_update) sgd_update;
  decltype(&cpu::portable::batch_norm_moments) batch_norm_moments;
  decltype(&cpu::portable::batch_norm_act) batch_norm_act;
  decltype(&cpu::portable::batch_norm_act_sums) batch_norm_act_sums;
  decltype(&cpu::portable::batch_norm_act_backward) batch_norm_act_backward;
  decltype(&cpu::portable::depthwise_gather) depthwise_gather;
  decltype(&cpu::portable::depthwise_backward) depthwise_backward;
  decltype(&cpu::portable::choose_panel_width) choose_panel_width;
  decltype(&cpu::portable::pack_by_output) pack_by_output;
  decltype(&cpu::portable::pack_by_input) pack_by_input;
  decltype(&cpu::portable::unpack_by_output) unpack_by_output;
  decltype(&cpu::portable::unpack_by_input) unpack_by_input;
  decltype(&cpu::portable::mix_rows) mix_rows;
  decltype(&cpu::portable::contract_rows) contract_rows;
  decltype(&cpu::portable::add_panels) add_panels;
  decltype(&cpu::portable::dense_gather) dense_gather;
  decltype(&cpu::portable::dense_weight_gradient) dense_weight_gradient;
  decltype(&cpu::portable::stacked_rows) stacked_rows;
  decltype(&cpu::portable::stacked_linear) stacked_linear;
  decltype(&cpu::portable::stacked_linear_backward) stacked_linear_backward;
};

#define KSHOT_KERNELS_OF(isa, available)                                                              \
  Kernels {                                                                                           \
    #isa, available, cpu::isa::separable_sum, cpu::isa::effective_weight,                             \
        cpu::isa::effective_weight_backward, cpu::isa::effective_weight_reduce,                       \
        cpu::isa::dynamic_group_weight, cpu::isa::dynamic_group_weight_backward,                      \
        cpu::isa::dynamic_group_weight_reduce, cpu::isa::dtw_align, cpu::isa::dtw_align_backward,     \
        cpu::isa::adamw_update, cpu::isa::sgd_update, cpu::isa::batch_norm_moments,                   \
        cpu::isa::batch_norm_act, cpu::isa::batch_norm_act_sums, cpu::isa::batch_norm_act_backward,   \
        cpu::isa::depthwise_gather, cpu::isa::depthwise_backward, cpu::isa::choose_panel_width,       \
        cpu::isa::pack_by_output, cpu::isa::pack_by_input, cpu::isa::unpack_by_output,                \
        cpu::isa::unpack_by_input, cpu::isa::mix_rows, cpu::isa::contract_rows, cpu::isa::add_panels, \
        cpu::isa::dense_gather, cpu::isa::dense_weight_gradient, cpu::isa::stacked_rows,              \
        cpu::isa::stacked_linear, cpu::isa::stacked_linear_backward                                   \
  }

inline std::vector<Kernels> all_kernels() {
  std::vector<Kernels> kernels;
#if defined(KSHOT_HAVE_PORTABLE)
  kernels.push_back(KSHOT_KERNELS_OF(portable, true));
#endif
#if defined(KSHOT_HAVE_AVX2)
  kernels.push_back(KSHOT_KERNELS_OF(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
#endif
#if defined(KSHOT_HAVE_AVX512)
  kernels.push_back(KSHOT_KERNELS_OF(avx512, __builtin_cpu_supports("avx512bw") &&
                                                 __builtin_cpu_supports("avx512dq") &&
                                                 __builtin_cpu_supports("avx512vl")));
#endif
  return kernels;
}

// Runs `test` on every instruction set of this processor; the exit status of a test.
inline int on_all_kernels(const std::function<bool(const Kernels&)>& test) {
  bool passed = true;
  for (const Kernels& kernels : all_kernels()) {
    std::printf("%s: %s\n", kernels.instruction_set, kernels.available ? "tested" : "not on this processor");
    if (kernels.available) passed = test(kernels) && passed;
  }
  return passed ? 0 : 1;
}

// Small whole numbers from a fixed sequence: sums of their products are exact, in any order.
template <class T>
std::vector<T> numbers(int64_t size, uint32_t seed) {
  std::vector<T> values(static_cast<size_t>(size));
  for (T& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<T>(static_cast<int>(seed >> 29) - 3);
  }
  return values;
}

// A batch of images [pixels, channels] in a wider one of `between`, which no kernel may look at: its pixels
// lie `gap` elements further apart. It ends with the last pixel, so that a sanitizer sees reads beyond.
template <class T>
class SpreadPixels {
 public:
  SpreadPixels(const std::vector<T>& packed, int64_t channels, int64_t gap, T between)
      : stride_(channels + gap), values_(packed.size() / channels * stride_ - gap, between) {
    for (size_t i = 0; i < packed.size(); ++i) values_[i / channels * stride_ + i % channels] = packed[i];
  }
  template <class P = void>
  Pixels<P> pixels() const {
    return {values_.data(), stride_};
  }

 private:
  int64_t stride_;
  std::vector<T> values_;
};

template <class T>
bool equal(const char* what, const Kernels& kernels, const std::vector<T>& got,
           const std::vector<double>& expected, double tolerance = 0) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = static_cast<double>(got[i]) - expected[i];
    if (!(error <= tolerance && -error <= tolerance)) {
      std::printf("%s on %s: element %zu is %g, expected %g\n", what, kernels.instruction_set, i,
                  static_cast<double>(got[i]), expected[i]);
      return false;
    }
  }
  return true;
}

// Calls body(begin, end) for the halves of [0, count), each on a thread of its own, as two threads of the
// operators would: a sanitizer sees what they share.
inline void on_two_threads(int64_t count, const std::function<void(int64_t, int64_t)>& body) {
  std::thread other([&] { body(0, count / 2); });
  body(count / 2, count);
  other.join();
}

}  // namespace kshot::tests
