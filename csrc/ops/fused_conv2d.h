// What fused_conv2d's backward returns on every backend.
#pragma once

#include <tuple>

#include "ops/mixing.h"

namespace kshot {

struct Needs {
  bool input, effective, weight, code, gate;

  bool parameters() const { return effective || weight || code || gate; }
};

// Gradients of input, effective weight, dictionary, code and gate; those not asked for are empty.
using FusedGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// From the gradient of the effective weight, of any dtype, to those of dictionary, code and gate.
inline FusedGradients gradients_of_mixing(const Mixing& mixing, const Tensor& grad_input,
                                          const Tensor& effective, const Needs& needs) {
  const auto dtype = mixing.dictionary().tensor().scalar_type();
  MixingGradients gradients(mixing, in_dtype(effective, dtype), needs.weight, needs.code, needs.gate);
  if (needs.weight || needs.code || needs.gate) run_backward({&gradients});
  return {grad_input, needs.effective ? gradients.grad : none_like(effective), gradients.grad_weight,
          gradients.grad_code, gradients.grad_gate};
}

inline FusedGradients no_gradients_of_mixing(const Mixing& mixing, const Tensor& grad_input) {
  const auto none = [&] { return none_like(mixing.code()); };
  return {grad_input, none(), none(), none(), none()};
}

}  // namespace kshot
