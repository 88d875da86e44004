// Average pooling in channels_last and its gradient: arguments of the kernel; see avg_pool2d.cpp.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/pixels.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// Which sources of an axis each of its targets adds up, and by which factors.
struct WeightedAxis {
  int64_t targets, sources;
  const int32_t* first;   // [targets]
  const int32_t* count;   // [targets]: neighbours from the first on; none where nothing reaches the target
  const void* of_source;  // [sources] of the sum type
  const void* of_target;  // [targets]
};

struct SeparableSum {
  DType dtype;
  int64_t channels;
  Pixels<void> source;  // [samples, height.sources, width.sources] pixels
  WeightedAxis height, width;
  void* target;      // [samples, height.targets, width.targets, channels]
  bool past_caches;  // whether the target is too large for the caches
};

// Rows [begin, end) of the target, counted through all samples.
KSHOT_DECLARE(void separable_sum(const SeparableSum& args, int64_t begin, int64_t end))

}  // namespace kshot::cpu
