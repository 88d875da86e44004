// Dense convolution in channels_last as a matrix product: arguments of the kernels; see dense_conv2d.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "common/conv_geometry.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// Where the taps of each target position read: forward from outputs to inputs, transposed from inputs to
// outputs.
struct GatherPlan {
  int64_t kernel_height, kernel_width;
  int64_t source_width, source_pixels;  // pixels of one sample
  int64_t target_width, target_pixels;
  std::vector<int64_t>
      order;  // target pixels so that neighbours in the list use the same taps where possible
  std::vector<int64_t> row_source;     // [target height, kernel height]: row of the source, or -1
  std::vector<int64_t> column_source;  // [target width, kernel width]: column of the source, or -1

  int64_t taps() const { return kernel_height * kernel_width; }
};

// target[g, c] = bias[c] + sum_{t, r} source[g at t, r] * panel[t, r, c] for the channels c of one panel.
struct DenseGather {
  const GatherPlan* plan;
  int64_t source_channels, target_channels;
  const float* source;  // [N, source pixels, source channels]
  float* target;        // [N, target pixels, target channels]
};

// gradient[t, o, lane] += sum_p grad[p, o] * input[p at t, channel] for the input channels of one panel.
struct DenseWeightGradient {
  const GatherPlan* plan;  // forward: targets are outputs, sources inputs
  int64_t in_channels, out_channels;
  const float* input;  // [N, source pixels, in_channels]
  const float* grad;   // [N, target pixels, out_channels]
};

// One copy of a weight, [C_out, C_in, KH, KW] with these strides, cut into panels of panel_width() channels:
// by output channel, [panels, taps, C_in, width], or by input channel, [panels, taps, C_out, width].
struct WeightView {
  const float* data;
  int64_t out_channels, in_channels, taps;
  int64_t out_stride, in_stride, tap_stride;
};

KSHOT_DECLARE(void get_panel_width(int64_t& width))
KSHOT_DECLARE(void pack_by_output(const WeightView& weight, int64_t panel, float* packed))
KSHOT_DECLARE(void pack_by_input(const WeightView& weight, int64_t panel, float* packed))
// The reverse of pack_by_input, into a weight of the same strides.
KSHOT_DECLARE(void unpack_by_input(const WeightView& weight, int64_t panel, const float* packed,
                                   float* unpacked))

// mixed[e] = sum_k code[k] * copies[k * stride + e]
KSHOT_DECLARE(void mix_panel(const float* copies, int64_t stride, const float* code, int64_t shots,
                             int64_t size, float* mixed))
// dots[k] = <panel, copies[k * stride]>; sums[k * stride + e] += code[k] * panel[e] unless sums is null
KSHOT_DECLARE(void contract_panel(const float* panel, const float* copies, int64_t stride, const float* code,
                                  int64_t shots, int64_t size, float* dots, float* sums))

// Targets [begin, end) of the flat list sample * target pixels + place in order.
KSHOT_DECLARE(void dense_gather(const DenseGather& args, const float* panel, int64_t panel_index,
                                const float* bias, int64_t begin, int64_t end))
KSHOT_DECLARE(void dense_weight_gradient(const DenseWeightGradient& args, int64_t panel_index, int64_t begin,
                                         int64_t end, float* gradient))

}  // namespace kshot::cpu
