// Operator sgd_update: one optimiser step on many dictionaries, in place, on every backend. Kernels: cpu/ and
// cuda/sgd_update.
#include "ops/dictionary.h"
#include "ops/registration.h"
#include "ops/sgd_pass.h"
#include "ops/written_memory.h"

namespace kshot {
namespace {

void check_like_weight(const char* name, const Tensor& tensor, const Tensor& weight) {
  STD_TORCH_CHECK(tensor.device() == weight.device() && tensor.scalar_type() == weight.scalar_type() &&
                      sizes_of(tensor) == sizes_of(weight),
                  name, " must be on the device, in dtype and shape like the weight");
}

// A parameter of rank 0 or 1 is a dictionary of one copy.
Tensor as_dictionary(const Tensor& tensor) {
  return tensor.dim() >= 2 ? tensor : torch::stable::reshape(tensor, {1, product(sizes_of(tensor))});
}

// One use of a dictionary, as it came.
struct Use {
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
class DictionaryUpdate {
 public:
  DictionaryUpdate(const SgdUpdate& settings, const Tensor& weight, const Tensor* momentum_buffer,
                   const std::optional<Tensor>& grad, const std::vector<Use>& uses)
      : args_(settings), weight_(as_dictionary(weight)), dictionary_(weight_) {
    if (momentum_buffer) {
      check_like_weight("momentum_buffer", *momentum_buffer, weight);
      momentum_buffer_ = as_dictionary(*momentum_buffer);
      work_buffer_ = laid_out_as(*momentum_buffer_, dictionary_.strides());
      args_.momentum_buffer = work_buffer_->data_ptr();
    }
    if (grad) {
      check_like_weight("grad", *grad, weight);
      args_.grad = keep(laid_out_as(as_dictionary(*grad), dictionary_.strides()));
    }
    bool whole_rows = false;
    for (const Use& use : uses) {
      use.check(dictionary_);
      whole_rows = whole_rows || use.needs_rows(dictionary_);
    }
    args_.geometry =
        dictionary_.geometry(1, dictionary_.out_channels(), dictionary_.in_channels(), whole_rows);
    args_.dtype = dtype_of(weight);
    args_.weight = dictionary_.tensor().data_ptr();
    for (const Use& use : uses) {
      const MixGeometry active = dictionary_.geometry(1, use.grad.size(0), use.in_channels(), whole_rows);
      const Sizes strides = dictionary_.effective_strides(sizes_of(use.grad));
      uses_.push_back({keep(as_contiguous(use.code)), use.gate ? keep(as_contiguous(*use.gate)) : nullptr,
                       keep(laid_out_as(use.grad, strides)), active.rows, active.run_length});
    }
  }

  SgdUpdate kernel_arguments() const {
    SgdUpdate args = args_;
    args.uses = uses_.data();
    args.use_count = static_cast<int64_t>(uses_.size());
    return args;
  }

  // What was updated in a copy, because the kernels do not know its layout, back to where it came from.
  void write_back() {
    write_back(weight_, dictionary_.tensor());
    if (momentum_buffer_) write_back(*momentum_buffer_, *work_buffer_);
  }

 private:
  static void write_back(Tensor& to, const Tensor& from) {
    if (to.data_ptr() != from.data_ptr()) torch::stable::copy_(to, from);
  }
  const void* keep(const Tensor& tensor) {
    kept_.push_back(tensor);
    return tensor.data_ptr();
  }

  SgdUpdate args_;
  Tensor weight_;
  Dictionary dictionary_;
  std::optional<Tensor> momentum_buffer_, work_buffer_;
  std::vector<Tensor> kept_;
  std::vector<SgdUse> uses_;
};

// What is updated must lie in memory of its own: each element has one old value and one new.
void check_apart(const std::vector<Tensor>& weights, const std::vector<Tensor>& momentum_buffers) {
  std::vector<Tensor> written = weights;
  written.insert(written.end(), momentum_buffers.begin(), momentum_buffers.end());
  STD_TORCH_CHECK(!share_memory(written),
                  "weights and momentum_buffers must not share memory, but two of them do; give each once");
}

void sgd_update(std::vector<Tensor> weights,           // each [K, C_out, ...] or a plain parameter, updated
                std::vector<Tensor> momentum_buffers,  // like the weights, updated; or none at all
                std::vector<std::optional<Tensor>> grads,      // like the weights
                std::vector<int64_t> use_counts,               // how many of the uses below each weight has
                std::vector<Tensor> use_codes,                 // each [K]
                std::vector<std::optional<Tensor>> use_gates,  // each [C_out']
                std::vector<Tensor> use_grads,                 // each [C_out', C_in', *kernel]
                double lr, double momentum, double dampening, double weight_decay, bool nesterov,
                bool maximize) {
  STD_TORCH_CHECK(
      grads.size() == weights.size() && use_counts.size() == weights.size() &&
          (momentum_buffers.empty() || momentum_buffers.size() == weights.size()),
      "every weight needs a gradient or none and a count of uses; all of them or none a momentum_buffer");
  int64_t all_uses = 0;
  for (const int64_t count : use_counts) {
    STD_TORCH_CHECK(0 <= count && count <= static_cast<int64_t>(use_codes.size()),
                    "a count of uses must be 0 to ", use_codes.size(), ", the number of codes; got ", count);
    all_uses += count;
  }
  STD_TORCH_CHECK(static_cast<int64_t>(use_codes.size()) == all_uses &&
                      use_gates.size() == use_codes.size() && use_grads.size() == use_codes.size(),
                  "every use needs a code, a gate or none, and a gradient");
  if (weights.empty()) return;
  STD_TORCH_CHECK(momentum == 0 || !momentum_buffers.empty(),
                  "a momentum other than 0 needs a momentum_buffer for every weight, got momentum ", momentum,
                  " and none");
  SgdUpdate settings{};
  settings.lr = lr;
  settings.momentum = momentum;
  settings.dampening = dampening;
  settings.weight_decay = weight_decay;
  settings.nesterov = nesterov;
  settings.maximize = maximize;

  std::vector<DictionaryUpdate> updates;
  updates.reserve(weights.size());
  std::vector<SgdUpdate> kernels;
  size_t next_use = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    STD_TORCH_CHECK(weights[i].device() == weights[0].device(),
                    "the weights of one call must be on one device");
    std::vector<Use> uses;
    for (int64_t u = 0; u < use_counts[i]; ++u, ++next_use) {
      uses.push_back({use_codes[next_use], use_gates[next_use], use_grads[next_use]});
    }
    const Tensor* buffer = momentum_buffers.empty() ? nullptr : &momentum_buffers[i];
    updates.emplace_back(settings, weights[i], buffer, grads[i], uses);
    kernels.push_back(updates.back().kernel_arguments());
  }
  check_apart(weights, momentum_buffers);
  run_sgd_update(kernels, weights[0]);
  for (DictionaryUpdate& update : updates) update.write_back();
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("sgd_update", TORCH_BOX(&kshot::sgd_update));
}
