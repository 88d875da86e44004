// One dictionary under one code, ready for the mixing kernels; shared by effective_weight and mix_weights.
#pragma once

#include <vector>

#include "common/effective_weight.h"
#include "ops/dictionary.h"

namespace kshot {

// Holds the tensors (copied where their layout asks for it) behind the kernels' raw pointers.
class Mixing {
 public:
  // `code_per_row`: the code is [C_out', N, K], one for each row; on the CPU only.
  Mixing(const Dictionary& dictionary, const Tensor& code, const std::optional<Tensor>& gate,
         int64_t out_channels, int64_t in_channels, bool code_per_row = false)
      : dictionary_(dictionary),
        code_per_row_(code_per_row),
        code_(as_contiguous(code)),
        out_channels_(out_channels),
        in_channels_(in_channels) {
    STD_TORCH_CHECK(product(dictionary.sizes()) > 0, "a weight dictionary must have no empty dimension");
    check_matches_dictionary("code", code);
    const bool ranks =
        code_per_row ? code.dim() == 3 && code.size(0) == out_channels : code.dim() == 1 || code.dim() == 2;
    STD_TORCH_CHECK(ranks && code.size(code.dim() - 1) == dictionary.shots(), "code must be ",
                    code_per_row ? "[C_out', N, K]" : "[K] or [N, K]", " with K = ", dictionary.shots());
    STD_TORCH_CHECK(1 <= out_channels && out_channels <= dictionary.out_channels() && 1 <= in_channels &&
                        in_channels <= dictionary.in_channels(),
                    "widths must lie in 1..", dictionary.out_channels(), " and 1..", dictionary.in_channels(),
                    ", got ", out_channels, " and ", in_channels);
    if (gate) {
      check_matches_dictionary("gate", *gate);
      STD_TORCH_CHECK(
          (gate->dim() == 1 || (gate->dim() == 2 && per_sample() && gate->size(0) == samples())) &&
              gate->size(gate->dim() - 1) == out_channels,
          "gate must be [C_out'] or, with a code per sample, [N, C_out'] with C_out' = ", out_channels);
      gate_ = as_contiguous(*gate);
    }
    geometry_ = dictionary.geometry(samples(), out_channels, in_channels, gate_.has_value() || code_per_row);
  }

  const Dictionary& dictionary() const { return dictionary_; }
  const MixGeometry& geometry() const { return geometry_; }
  const Tensor& code() const { return code_; }
  const std::optional<Tensor>& gate() const { return gate_; }
  bool per_sample() const { return code_.dim() > 1; }
  int64_t samples() const { return per_sample() ? code_.size(code_.dim() - 2) : 1; }

  Sizes effective_sizes() const {
    return dictionary_.effective_sizes(per_sample() ? std::optional(samples()) : std::nullopt, out_channels_,
                                       in_channels_);
  }
  Tensor new_effective() const {
    const Sizes sizes = effective_sizes();
    return empty_strided(sizes, dictionary_.effective_strides(sizes), dictionary_.tensor().scalar_type(),
                         dictionary_.tensor());
  }

  // The effective weight where it lies, in a single copy whose code is one, for kernels of the CPU that take
  // any strides: a sliced weight is then not copied.
  std::optional<Tensor> in_place() const {
    const Tensor& weight = dictionary_.tensor();
    const bool as_it_is = dictionary_.shots() == 1 && !gate_ && !per_sample() && code_.is_cpu() &&
                          weight.scalar_type() == torch::headeronly::ScalarType::Float &&
                          *static_cast<const float*>(code_.data_ptr()) == 1.0f;
    if (!as_it_is) return std::nullopt;
    const Sizes& strides = dictionary_.strides();
    return seen_as(weight, effective_sizes(), {strides.begin() + 1, strides.end()});
  }

  // `grad` in the memory layout of the effective weight.
  Tensor laid_out_like_effective(const Tensor& grad) const {
    const Sizes sizes = effective_sizes();
    STD_TORCH_CHECK(sizes_of(grad) == sizes, "the gradient must have the shape of the effective weight");
    check_matches_dictionary("gradient", grad, dictionary_.tensor().scalar_type());
    return laid_out_as(grad, dictionary_.effective_strides(sizes));
  }

  EffectiveWeight forward_into(const Tensor& output) const {
    EffectiveWeight args = kernel_arguments();
    args.output = output.data_ptr();
    return args;
  }

  EffectiveWeight kernel_arguments() const {
    EffectiveWeight args{};
    args.geometry = geometry_;
    args.dtype = dtype_of(dictionary_.tensor());
    args.weight = dictionary_.tensor().data_ptr();
    args.code = code_.data_ptr();
    args.gate = gate_ ? gate_->data_ptr() : nullptr;
    args.gate_stride = gate_ && gate_->dim() == 2 ? out_channels_ : 0;
    args.code_row_stride = code_per_row_ ? samples() * dictionary_.shots() : 0;
    return args;
  }

 private:
  void check_matches_dictionary(const char* name, const Tensor& tensor) const {
    check_matches_dictionary(name, tensor, sum_type_of(dictionary_.tensor()));
  }
  void check_matches_dictionary(const char* name, const Tensor& tensor,
                                torch::headeronly::ScalarType dtype) const {
    STD_TORCH_CHECK(tensor.device() == dictionary_.tensor().device() && tensor.scalar_type() == dtype, name,
                    " must be where the dictionary is, of scalar type ", static_cast<int>(dtype),
                    ", got scalar type ", static_cast<int>(tensor.scalar_type()));
  }

  Dictionary dictionary_;
  bool code_per_row_;
  Tensor code_;
  std::optional<Tensor> gate_;
  int64_t out_channels_, in_channels_;
  MixGeometry geometry_{};
};

// The gradients that a backward pass is asked for; those it is not asked for are empty tensors.
struct MixingGradients {
  MixingGradients(const Mixing& mixing, const Tensor& grad, bool need_weight, bool need_code, bool need_gate)
      : mixing(mixing),
        need_weight(need_weight),
        need_code(need_code),
        need_gate(need_gate && mixing.gate()),
        grad(mixing.laid_out_like_effective(grad)) {
    const Dictionary& dictionary = mixing.dictionary();
    const Tensor& weight = dictionary.tensor();
    const MixGeometry& g = mixing.geometry();
    grad_weight = need_weight
                      ? empty_strided(dictionary.sizes(), dictionary.strides(), weight.scalar_type(), weight)
                      : none(weight.scalar_type());
    if (need_weight && (g.samples == 0 || g.sample_size != g.shot_stride)) torch::stable::zero_(grad_weight);
    grad_code = need_code ? empty_like(mixing.code()) : none(sum_type_of(weight));
    grad_gate = this->need_gate ? empty_like(*mixing.gate()) : none(sum_type_of(weight));
  }

  Mixing mixing;
  bool need_weight, need_code, need_gate;
  Tensor grad, grad_weight, grad_code, grad_gate;

 private:
  Tensor allocate(const Sizes& sizes, torch::headeronly::ScalarType dtype) const {
    return empty_strided(sizes, contiguous_strides(sizes), dtype, mixing.dictionary().tensor());
  }
  Tensor none(torch::headeronly::ScalarType dtype) const { return allocate({0}, dtype); }
  Tensor empty_like(const Tensor& tensor) const { return allocate(sizes_of(tensor), tensor.scalar_type()); }
};

// One pass over all dictionaries; ops/mixing.cpp for the CPU, ops_cuda/mixing.cpp for CUDA.
void run_forward(const std::vector<EffectiveWeight>& mixings, const Tensor& weight);

// Fills the gradients asked for, in one pass over the dictionaries and small sums over their rows. Mixings
// whose grad_code is the same tensor are summed into it; they are neighbours.
void run_backward(const std::vector<MixingGradients*>& gradients);

}  // namespace kshot
