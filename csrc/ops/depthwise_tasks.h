// How the samples and channels of a depthwise convolution are shared out.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cpu/depthwise_conv2d.h"
#include "ops/conv_arguments.h"

namespace kshot {

// Cuts the samples into `groups`, and the channels where groups are fewer than threads, and runs
// body(group, task) on all threads.
template <class Body>
void parallel_groups(int64_t batch, int64_t groups, int64_t channels, const Body& body) {
  const int64_t part = channels_per_task(groups, channels), parts = (channels + part - 1) / part;
  torch::stable::parallel_for(0, groups * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t group = index / parts, channel = index % parts * part;
      body(group, cpu::DepthwiseTask{group * batch / groups, (group + 1) * batch / groups, channel,
                                     std::min(channels, channel + part)});
    }
  });
}

}  // namespace kshot
