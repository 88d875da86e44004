// The mixed weight of a depthwise convolution on the CPU, whose kernels read it tap by tap.
#pragma once

#include "ops/fused_conv2d.h"
#include "ops/place_codes.h"
#include "ops/tap_gate.h"
#include "ops/transpose.h"

namespace kshot {

// A dictionary [K, C, 1, KH, KW] under a code, as [taps, C'] or [N, taps, C'] and back. Where it is mixed per
// sample, the copies are brought into this order before: that is less to transpose than the samples' weights.
// A code by place mixes each tap by its own entries, in the type of sums, after which the gate is applied.
class DepthwiseMixture {
 public:
  DepthwiseMixture(const Tensor& weight, const Tensor& code, const std::optional<Tensor>& gate,
                   int64_t channels)
      : dictionary_(weight),
        taps_(weight.size(3) * weight.size(4)),
        channels_(channels),
        code_(code),
        by_tap_before_(has_places(code) || (code.dim() == 2 && !gate)),
        mixing_(by_tap_before_ ? Mixing(Dictionary(copies_by_tap()), codes_by_place(code), std::nullopt,
                                        taps_, channels, has_places(code))
                               : Mixing(dictionary_, code, gate, channels, 1)) {
    if (by_tap_before_ && gate) gate_after_ = as_contiguous(*gate);
  }

  Tensor by_tap(torch::headeronly::ScalarType dtype) const {
    Tensor effective = mixing_.new_effective();
    run_forward({mixing_.forward_into(effective)}, effective);
    if (gate_after_) effective = with_tap_gate(effective, *gate_after_);
    if (by_tap_before_) return in_dtype(effective, dtype);
    Tensor result =
        new_by_tap(mixing_.per_sample() ? std::optional(mixing_.samples()) : std::nullopt, effective);
    transpose_matrices(effective, matrix(), result, matrix(), channels_, taps_);
    return in_dtype(result, dtype);
  }

  // `grads.weight` is that of the weight by tap.
  FusedGradients gradients(const ConvGradients& grads, const Needs& needs) const {
    if (!needs.parameters()) return no_gradients_of_mixing(mixing_, grads.input);
    if (by_tap_before_) return gradients_by_tap(grads, needs);
    const Sizes sizes = mixing_.effective_sizes();
    Tensor effective =
        empty_strided(sizes, contiguous_strides(sizes), grads.weight.scalar_type(), grads.weight);
    transpose_matrices(grads.weight, matrix(), effective, matrix(), taps_, channels_);
    return gradients_of_mixing(mixing_, grads.input, effective, needs);
  }

 private:
  int64_t matrix() const { return taps_ * channels_; }

  FusedGradients gradients_by_tap(const ConvGradients& grads, const Needs& needs) const {
    Tensor grad_weight = grads.weight;
    std::optional<Tensor> grad_gate;
    if (gate_after_) {
      Tensor mixed = mixing_.new_effective();  // made again, as it is small
      run_forward({mixing_.forward_into(mixed)}, mixed);
      grad_gate = tap_gate_gradient(mixed, grad_weight, *gate_after_);
      grad_weight = with_tap_gate(grad_weight, *gate_after_);
    }
    FusedGradients result = gradients_of_mixing(mixing_, grads.input, grad_weight, needs);
    if (needs.weight) {
      std::get<2>(result) = copies_from(in_dtype(std::get<2>(result), dictionary_.tensor().scalar_type()));
    }
    if (needs.code) std::get<3>(result) = codes_by_sample(std::get<3>(result), code_);
    if (needs.gate && grad_gate) std::get<4>(result) = *grad_gate;
    return result;
  }

  // [taps, C'], or [count, taps, C'].
  Tensor new_by_tap(std::optional<int64_t> count, const Tensor& like) const {
    Sizes sizes{taps_, channels_};
    if (count) sizes.insert(sizes.begin(), *count);
    return empty_strided(sizes, contiguous_strides(sizes), like.scalar_type(), like);
  }

  // The active part of the copies as [K, taps, C'].
  Tensor copies_by_tap() const {
    const Tensor& copies = dictionary_.tensor();
    Tensor result = new_by_tap(dictionary_.shots(), copies);
    transpose_matrices(copies, dictionary_.out_channels() * taps_, result, matrix(), channels_, taps_);
    return has_places(code_) ? in_dtype(result, sum_type_of(copies)) : result;
  }
  // A gradient of that part as one of the whole dictionary.
  Tensor copies_from(const Tensor& part) const {
    Tensor whole =
        empty_strided(dictionary_.sizes(), contiguous_strides(dictionary_.sizes()), part.scalar_type(), part);
    if (channels_ < dictionary_.out_channels()) torch::stable::zero_(whole);
    transpose_matrices(part, matrix(), whole, dictionary_.out_channels() * taps_, taps_, channels_);
    return whole;
  }

  Dictionary dictionary_;
  int64_t taps_, channels_;
  Tensor code_;
  std::optional<Tensor> gate_after_;  // of the mixture by tap
  bool by_tap_before_;
  Mixing mixing_;
};

}  // namespace kshot
