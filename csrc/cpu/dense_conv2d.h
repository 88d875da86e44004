// Dense convolution in channels_last as a matrix product: arguments of the kernels; see dense_conv2d.cpp.
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/gather_plan.h"
#include "common/pixels.h"
#include "cpu/isa.h"

namespace kshot::cpu {

// target[g, c] = activation(bias[c] + sum_{t, r} source[g at t, r] * panel[t, r, c]) for the channels c of
// some panels.
struct DenseGather {
  const GatherPlan* plan;
  int64_t source_channels, target_channels;
  Pixels<float> source;
  float* target;     // [N, target pixels, target channels]
  bool past_caches;  // whether the target is too large for the caches
  // With one tap, elements from a source row to what is asked for while the row is worked on; 0: the next
  // rows.
  int64_t ahead = 0;
  Activation activation = Activation::kIdentity;
  bool accumulate = false;  // whether the target holds the sums of other source channels, to be added to
};

// gradient[t, o, i] += sum_p grad[p, o] * input[p at t, i] for some panels: by input channel, or by output
// channel, whose tiles are then [t, i, o].
struct DenseWeightGradient {
  const GatherPlan* plan;  // forward: targets are outputs, sources inputs
  int64_t in_channels, out_channels;
  Pixels<float> input, grad;
  bool by_output;
  int64_t row_begin, row_end;  // channels of the other side, all or a part, whose sums are made
  // What will be read after the last position: two stretches of memory, or null.
  const float* next[2] = {nullptr, nullptr};
  int64_t next_size[2] = {0, 0};
  bool overwrite = false;  // whether the first positions' sums replace what the gradient holds
};

// Some rows and neighbouring channels of K copies: (k, r, c) lies at data[k * copy_stride + r * row_stride +
// c].
struct CopyRows {
  const float* data;
  int64_t copy_stride, row_stride, shots, rows, width;
};

// The gradients of some samples' mixtures of these rows, packed in rows of panel_width.
struct RowsContraction {
  CopyRows copies;
  const float* gradients;  // [samples, gradient_stride]
  int64_t gradient_stride, panel_width, samples;
  const float* code;  // [samples, K]
  float* dots;        // [samples, K]
  float* sums;        // laid out as copies
};

// Panels [begin, end) of a weight, `width` channels each; the first of them lies at `data`, the next one
// `stride` elements further.
template <class Pointer>
struct PanelRange {
  Pointer data;
  int64_t stride, width, begin, end;

  int64_t size() const { return end - begin; }
  Pointer of(int64_t panel) const { return data + (panel - begin) * stride; }
};

// One copy of a weight, [C_out, C_in, KH, KW] with these strides, cut into panels of `width` channels: by
// output channel, [panels, taps, C_in, width], or by input channel, [panels, taps, C_out, width].
struct WeightView {
  const float* data;
  int64_t out_channels, in_channels, taps;
  int64_t out_stride, in_stride, tap_stride;
};

// The width that panels of so many channels should have: whole vectors, panels of nearly equal width.
KSHOT_DECLARE(void choose_panel_width(int64_t channels, int64_t& width))
KSHOT_DECLARE(void pack_by_output(const WeightView& weight, int64_t panel, int64_t panel_width,
                                  float* packed))
KSHOT_DECLARE(void pack_by_input(const WeightView& weight, int64_t panel, int64_t panel_width, float* packed))
// The reverse, into a weight of the same strides.
KSHOT_DECLARE(void unpack_by_output(const WeightView& weight, int64_t panel, int64_t panel_width,
                                    const float* packed, float* unpacked))
KSHOT_DECLARE(void unpack_by_input(const WeightView& weight, int64_t panel, int64_t panel_width,
                                   const float* packed, float* unpacked))

// mixed[n, r, c] = sum_k code[n, k] * copies[k, r, c], in rows of panel_width, zero beyond the copies' width.
KSHOT_DECLARE(void mix_rows(const CopyRows& copies, const float* code, int64_t samples, int64_t panel_width,
                            float* mixed, int64_t mixed_stride))
// dots[n, k] += <gradients[n], copies[k]>, sums[k] += sum_n code[n, k] * gradients[n]
KSHOT_DECLARE(void contract_rows(const RowsContraction& args))
// into[e] += from[e]
KSHOT_DECLARE(void add_panels(float* into, const float* from, int64_t size))

// Targets [begin, end) of the flat list sample * places + place.
KSHOT_DECLARE(void dense_gather(const DenseGather& args, const PanelRange<const float*>& panels,
                                const float* bias, int64_t begin, int64_t end))
KSHOT_DECLARE(void dense_weight_gradient(const DenseWeightGradient& args, const PanelRange<float*>& gradient,
                                         int64_t begin, int64_t end))

}  // namespace kshot::cpu
