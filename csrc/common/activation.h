// The activations that operators fuse, in the order of ACTIVATIONS in kshot_ext/reference/batch_norm_act.py.
#pragma once

#include <cstdint>

namespace kshot {

enum class Activation : int8_t { kIdentity, kRelu, kRelu6, kSilu, kHardswish };
constexpr int64_t kActivations = 5;

}  // namespace kshot
