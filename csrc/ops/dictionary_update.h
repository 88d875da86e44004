// What the optimisers' operators have in common: their operands, checked, in the form of the kernels.
#pragma once

#include <string>
#include <vector>

#include "common/dictionary_update.h"
#include "ops/dictionary.h"
#include "ops/written_memory.h"

namespace kshot {

// A parameter of rank 0 or 1 is a dictionary of one copy.
inline Tensor as_dictionary(const Tensor& tensor) {
  return tensor.dim() >= 2 ? tensor : torch::stable::reshape(tensor, {1, product(sizes_of(tensor))});
}

inline void check_like_weight(const char* name, const Tensor& tensor, const Tensor& weight) {
  STD_TORCH_CHECK(tensor.device() == weight.device() && tensor.scalar_type() == weight.scalar_type() &&
                      sizes_of(tensor) == sizes_of(weight),
                  name, " must be on the device, in dtype and shape like the weight");
}

// One use of a dictionary, as it came.
struct UseOperands {
  Tensor code;                 // [K]
  std::optional<Tensor> gate;  // [C_out']
  Tensor grad;                 // [C_out', C_in', *kernel]

  int64_t in_channels() const { return grad.dim() > 1 ? grad.size(1) : 1; }

  // The kernel reads through raw pointers: sizes and dtypes must be what the dictionary's are.
  void check(const Dictionary& dictionary) const {
    const auto sum_type = sum_type_of(dictionary.tensor());
    const auto device = dictionary.tensor().device();
    STD_TORCH_CHECK(code.device() == device && code.scalar_type() == sum_type && code.dim() == 1 &&
                        code.size(0) == dictionary.shots(),
                    "the code of a use must be [K] with K = ", dictionary.shots(),
                    ", on the dictionary's device, in the dtype of sums");
    const Sizes sizes = sizes_of(grad), &whole = dictionary.sizes();
    bool fits = grad.device() == device && grad.scalar_type() == dictionary.tensor().scalar_type() &&
                sizes.size() + 1 == whole.size();
    for (size_t d = 0; fits && d < sizes.size(); ++d) {
      fits = d < 2 ? sizes[d] >= 1 && sizes[d] <= whole[d + 1] : sizes[d] == whole[d + 1];
    }
    STD_TORCH_CHECK(
        fits,
        "the gradient of a use must be that of the active part of one copy, on its device, in its dtype");
    STD_TORCH_CHECK(!gate || (gate->device() == device && gate->scalar_type() == sum_type &&
                              gate->dim() == 1 && gate->size(0) == sizes[0]),
                    "the gate of a use must be [C_out'] with C_out' = ", sizes[0],
                    ", on the dictionary's device, in the dtype of sums");
  }

  bool needs_rows(const Dictionary& dictionary) const {
    return gate || grad.size(0) != dictionary.out_channels() || in_channels() != dictionary.in_channels();
  }
};

// One dictionary's update in the form of the kernels, with the tensors behind the raw pointers.
class UpdateOperands {
 public:
  UpdateOperands(const Tensor& weight, const std::optional<Tensor>& grad,
                 const std::vector<UseOperands>& uses, bool maximize)
      : weight_(weight), dictionary_(as_dictionary(weight)) {
    written_.push_back({as_dictionary(weight), dictionary_.tensor()});
    if (grad) {
      check_like_weight("grad", *grad, weight);
      args_.grad = keep(laid_out_as(as_dictionary(*grad), dictionary_.strides()));
    }
    bool whole_rows = false;
    for (const UseOperands& use : uses) {
      use.check(dictionary_);
      whole_rows = whole_rows || use.needs_rows(dictionary_);
    }
    args_.geometry =
        dictionary_.geometry(1, dictionary_.out_channels(), dictionary_.in_channels(), whole_rows);
    args_.dtype = dtype_of(weight);
    args_.weight = dictionary_.tensor().data_ptr();
    args_.maximize = maximize;
    for (const UseOperands& use : uses) {
      const MixGeometry active = dictionary_.geometry(1, use.grad.size(0), use.in_channels(), whole_rows);
      const Sizes strides = dictionary_.effective_strides(sizes_of(use.grad));
      uses_.push_back({keep(as_contiguous(use.code)), use.gate ? keep(as_contiguous(*use.gate)) : nullptr,
                       keep(laid_out_as(use.grad, strides)), active.rows, active.run_length});
    }
  }

  // Memory of what the optimiser keeps of this weight, in the weight's layout.
  void* state(const char* name, const Tensor& tensor) {
    check_like_weight(name, tensor, weight_);
    const Tensor own = as_dictionary(tensor);
    written_.push_back({own, laid_out_as(own, dictionary_.strides())});
    return written_.back().used.data_ptr();
  }

  DictionaryUpdate kernel_arguments() const {
    DictionaryUpdate args = args_;
    args.uses = uses_.data();
    args.use_count = static_cast<int64_t>(uses_.size());
    return args;
  }

  // What was updated in a copy, because the kernels do not know its layout, back to where it came from.
  void write_back() {
    for (Written& written : written_) {
      if (written.own.data_ptr() != written.used.data_ptr()) {
        torch::stable::copy_(written.own, written.used);
      }
    }
  }

 private:
  struct Written {
    Tensor own, used;
  };

  const void* keep(const Tensor& tensor) {
    kept_.push_back(tensor);
    return tensor.data_ptr();
  }

  DictionaryUpdate args_{};
  Tensor weight_;
  Dictionary dictionary_;
  std::vector<Written> written_;
  std::vector<Tensor> kept_;
  std::vector<DictionaryUse> uses_;
};

// A list that an optimiser keeps beside the weights: as long as theirs, or empty.
struct StateList {
  const char* name;  // in the singular
  const std::vector<Tensor>& tensors;
};

// The gradients of a call's weights: dense ones, and the uses that make compact ones.
struct UpdateGradients {
  const std::vector<std::optional<Tensor>>& grads;      // like the weights
  const std::vector<int64_t>& use_counts;               // how many of the uses below each weight has
  const std::vector<Tensor>& use_codes;                 // each [K]
  const std::vector<std::optional<Tensor>>& use_gates;  // each [C_out']
  const std::vector<Tensor>& use_grads;                 // each [C_out', C_in', *kernel]

  void check(size_t weights) const {
    STD_TORCH_CHECK(grads.size() == weights && use_counts.size() == weights,
                    "every weight needs a gradient or none and a count of uses");
    int64_t all_uses = 0;
    for (const int64_t count : use_counts) {
      STD_TORCH_CHECK(0 <= count && count <= static_cast<int64_t>(use_codes.size()),
                      "a count of uses must be 0 to ", use_codes.size(), ", the number of codes; got ",
                      count);
      all_uses += count;
    }
    STD_TORCH_CHECK(static_cast<int64_t>(use_codes.size()) == all_uses &&
                        use_gates.size() == use_codes.size() && use_grads.size() == use_codes.size(),
                    "every use needs a code, a gate or none, and a gradient");
  }

  // The uses of one weight, which begin at `first`.
  std::vector<UseOperands> uses(size_t weight, size_t first) const {
    std::vector<UseOperands> found;
    for (size_t u = first; u < first + static_cast<size_t>(use_counts[weight]); ++u) {
      found.push_back({use_codes[u], use_gates[u], use_grads[u]});
    }
    return found;
  }
};

// What is updated must lie in memory of its own: each element has one old value and one new.
inline void check_apart(const std::vector<Tensor>& weights, const std::vector<StateList>& states) {
  std::vector<Tensor> written = weights;
  std::string names;
  for (const StateList& state : states) {
    written.insert(written.end(), state.tensors.begin(), state.tensors.end());
    names += std::string(&state == &states.back() ? " and " : ", ") + state.name + "s";
  }
  STD_TORCH_CHECK(!share_memory(written), "weights", names,
                  " must not share memory, but two of them do; give each once");
}

// One step of an optimiser on all weights: `complete(i, states, update)` adds the optimiser's own arguments
// to those of weight i, with the memory of its states (null for those that there are none of); `run` is the
// pass.
template <class Update, class Complete, class Run>
void update_dictionaries(const std::vector<Tensor>& weights, const std::vector<StateList>& states,
                         const UpdateGradients& gradients, bool maximize, const Complete& complete,
                         const Run& run) {
  gradients.check(weights.size());
  for (const StateList& state : states) {
    STD_TORCH_CHECK(state.tensors.empty() || state.tensors.size() == weights.size(),
                    "every weight needs a gradient or none and a count of uses; all of them or none a ",
                    state.name);
  }
  if (weights.empty()) return;
  std::vector<UpdateOperands> operands;
  operands.reserve(weights.size());
  std::vector<Update> updates(weights.size());
  size_t next_use = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    STD_TORCH_CHECK(weights[i].device() == weights[0].device(),
                    "the weights of one call must be on one device");
    operands.emplace_back(weights[i], gradients.grads[i], gradients.uses(i, next_use), maximize);
    next_use += static_cast<size_t>(gradients.use_counts[i]);
    std::vector<void*> memory;
    for (const StateList& state : states) {
      memory.push_back(state.tensors.empty() ? nullptr : operands[i].state(state.name, state.tensors[i]));
    }
    static_cast<DictionaryUpdate&>(updates[i]) = operands[i].kernel_arguments();
    complete(i, memory, updates[i]);
  }
  check_apart(weights, states);
  run(updates, weights[0]);
  for (UpdateOperands& each : operands) each.write_back();
}

}  // namespace kshot
