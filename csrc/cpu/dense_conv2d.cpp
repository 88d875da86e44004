// Dense convolution, channels_last, float32, as a matrix product that gathers its left operand:
//
//     target[g, c] = bias[c] + sum_t sum_r source[g at t, r] * weight[t, r, c]
//
// Forward, targets are outputs; with transposed taps and the weight turned around it is the gradient of the
// input (dense_gather.h). The gradient of the weight has the same shape with positions as the long axis,
//
//     gradient[t, o, i] = sum_p grad[p, o] * input[p at t, i]
//
// with o as rows (broadcast) and i as lanes, or the reverse (dense_weight_gradient.h).
//
// A weight mixed per sample is never stored: its panels are mixed from rows of the K copies
// (dense_panels.cpp), used, and overwritten by the next sample's. Bound by arithmetic, rows * vectors
// multiply-adds for rows + vectors loads; with few channels on one side by the traffic of the other side's
// tensor.
#include "cpu/dense_conv2d.h"

#include "cpu/dense_gather.h"
#include "cpu/dense_tiles.h"
#include "cpu/dense_weight_gradient.h"

namespace kshot::cpu::KSHOT_ISA {

void dense_gather(const DenseGather& args, const PanelRange<const float*>& panels, const float* bias,
                  int64_t begin, int64_t end) {
  with_vectors(panels.width,
               [&](auto vectors) { gather_range<decltype(vectors)::value>(args, panels, bias, begin, end); });
}

void dense_weight_gradient(const DenseWeightGradient& args, const PanelRange<float*>& gradient, int64_t begin,
                           int64_t end) {
  with_vectors(gradient.width, [&](auto vectors) {
    weight_gradient_range<decltype(vectors)::value>(args, gradient, begin, end);
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
