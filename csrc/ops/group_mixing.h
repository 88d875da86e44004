// One dictionary under one code and one dynamic grouping, ready for the kernels of dynamic_group_weight.
#pragma once

#include "common/group_relation.h"
#include "ops/mixing.h"

namespace kshot {

class GroupMixing {
 public:
  GroupMixing(const Tensor& weight, const Tensor& code, const Tensor& group_gates)
      : dictionary_(weight),
        mixing_(dictionary_, code, std::nullopt, dictionary_.out_channels(), dictionary_.in_channels()),
        gates_(as_contiguous(group_gates)) {
    const torch::headeronly::ScalarType sums = sum_type_of(weight);
    STD_TORCH_CHECK(group_gates.dim() == 1 && group_gates.scalar_type() == sums &&
                        group_gates.device() == weight.device(),
                    "group_gates must be [n], where the dictionary is, of scalar type ",
                    static_cast<int>(sums), "; got rank ", group_gates.dim(), " and scalar type ",
                    static_cast<int>(group_gates.scalar_type()));
    const int64_t out = dictionary_.out_channels(), in = dictionary_.in_channels();
    STD_TORCH_CHECK(gates() < 32 && out % blocks() == 0 && in % blocks() == 0,
                    "2^n must divide the dictionary's C_out = ", out, " and C_in = ", in,
                    ", got n = ", gates());
  }

  int64_t gates() const { return gates_.size(0); }
  int64_t blocks() const { return int64_t{1} << gates(); }
  const Dictionary& dictionary() const { return dictionary_; }
  const Mixing& mixing() const { return mixing_; }
  const Tensor& group_gates() const { return gates_; }
  // Rows are output channels here, whatever Mixing makes of a dictionary without a gate.
  MixGeometry geometry() const {
    return dictionary_.geometry(mixing_.samples(), dictionary_.out_channels(), dictionary_.in_channels(),
                                true);
  }

  GroupWeight kernel_arguments() const {
    GroupWeight args{};
    args.mixing = mixing_.kernel_arguments();
    args.mixing.geometry = geometry();
    args.groups.gates = gates();
    args.groups.row_block = dictionary_.out_channels() / blocks();
    args.groups.block = args.mixing.geometry.run_length / blocks();
    args.groups.values = gates_.data_ptr();
    return args;
  }

 private:
  Dictionary dictionary_;
  Mixing mixing_;
  Tensor gates_;
};

// The gradients that a backward pass is asked for; those it is not asked for are empty tensors.
struct GroupMixingGradients {
  GroupMixingGradients(const GroupMixing& mixing, const Tensor& grad, bool need_weight, bool need_code,
                       bool need_gates)
      : mixing(mixing), grad(mixing.mixing().laid_out_like_effective(grad)) {
    const Tensor& weight = mixing.dictionary().tensor();
    grad_weight = need_weight ? empty_strided(mixing.dictionary().sizes(), mixing.dictionary().strides(),
                                              weight.scalar_type(), weight)
                              : none_like(weight);
    grad_code = need_code ? new_like(mixing.mixing().code()) : none_like(mixing.mixing().code());
    grad_gates = need_gates ? new_like(mixing.group_gates()) : none_like(mixing.group_gates());
  }

  static Tensor new_like(const Tensor& contiguous) {
    const Sizes sizes = sizes_of(contiguous);
    return empty_strided(sizes, contiguous_strides(sizes), contiguous.scalar_type(), contiguous);
  }

  const GroupMixing& mixing;
  Tensor grad, grad_weight, grad_code, grad_gates;
};

// One pass over the dictionary; ops/group_mixing.cpp for the CPU, ops_cuda/group_mixing.cpp for CUDA.
void run_group_forward(const GroupMixing& mixing, const Tensor& output);
// Fills the gradients that are not empty.
void run_group_backward(const GroupMixingGradients& gradients);

}  // namespace kshot
