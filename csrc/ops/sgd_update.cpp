// Operator sgd_update: one optimiser step on a dictionary, in place, on every backend. Kernels: cpu/ and
// cuda/sgd_update.
#include "ops/dictionary.h"
#include "ops/registration.h"
#include "ops/sgd_pass.h"

namespace kshot {
namespace {

void check_like_weight(const char* name, const Tensor& tensor, const Tensor& weight) {
  STD_TORCH_CHECK(tensor.device() == weight.device() && tensor.scalar_type() == weight.scalar_type() &&
                      sizes_of(tensor) == sizes_of(weight),
                  name, " must be on the device, in dtype and shape like the weight");
}

// The kernel reads each use through raw pointers: sizes and dtypes must be what the dictionary's are.
void check_use(const Tensor& code, const std::optional<Tensor>& gate, const Tensor& grad,
               const Dictionary& dictionary) {
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
      fits, "the gradient of a use must be that of the active part of one copy, on its device, in its dtype");
  STD_TORCH_CHECK(!gate || (gate->device() == device && gate->scalar_type() == sum_type && gate->dim() == 1 &&
                            gate->size(0) == sizes[0]),
                  "the gate of a use must be [C_out'] with C_out' = ", sizes[0],
                  ", on the dictionary's device, in the dtype of sums");
}

void sgd_update(Tensor weight,                             // [K, C_out, ...], updated
                std::optional<Tensor> momentum_buffer,     // like weight, updated
                std::optional<Tensor> grad,                // like weight
                std::vector<Tensor> codes,                 // each [K]
                std::vector<std::optional<Tensor>> gates,  // each [C_out']
                std::vector<Tensor> grads,                 // each [C_out', C_in', *kernel]
                double lr, double momentum, double dampening, double weight_decay, bool nesterov) {
  if (momentum_buffer) check_like_weight("momentum_buffer", *momentum_buffer, weight);
  if (grad) check_like_weight("grad", *grad, weight);
  STD_TORCH_CHECK(codes.size() == grads.size() && gates.size() == grads.size(),
                  "every use needs a code, a gate or none, and a gradient");
  // A parameter of rank 0 or 1 is a dictionary of one copy.
  const Sizes shape = weight.dim() >= 2 ? sizes_of(weight) : Sizes{1, product(sizes_of(weight))};
  const bool reshaped = weight.dim() < 2;
  const auto as_dictionary = [&](const Tensor& t) { return reshaped ? torch::stable::reshape(t, shape) : t; };
  const Dictionary dictionary(as_dictionary(weight));
  Tensor work = dictionary.tensor();
  std::optional<Tensor> buffer, dense;
  if (momentum_buffer) buffer = laid_out_as(as_dictionary(*momentum_buffer), dictionary.strides());
  if (grad) dense = laid_out_as(as_dictionary(*grad), dictionary.strides());

  bool whole_rows = false;
  for (size_t u = 0; u < grads.size(); ++u) {
    check_use(codes[u], gates[u], grads[u], dictionary);
    const int64_t in_channels = grads[u].dim() > 1 ? grads[u].size(1) : 1;
    whole_rows = whole_rows || gates[u] || grads[u].size(0) != dictionary.out_channels() ||
                 in_channels != dictionary.in_channels();
  }
  SgdUpdate args{};
  args.geometry = dictionary.geometry(1, dictionary.out_channels(), dictionary.in_channels(), whole_rows);
  args.dtype = dtype_of(weight);
  args.weight = work.data_ptr();
  args.momentum_buffer = buffer ? buffer->data_ptr() : nullptr;
  args.grad = dense ? dense->data_ptr() : nullptr;
  args.lr = lr;
  args.momentum = momentum;
  args.dampening = dampening;
  args.weight_decay = weight_decay;
  args.nesterov = nesterov;

  std::vector<Tensor> keep;  // the tensors behind the raw pointers
  std::vector<SgdUse> uses;
  for (size_t u = 0; u < grads.size(); ++u) {
    const Sizes sizes = sizes_of(grads[u]);
    keep.push_back(laid_out_as(grads[u], dictionary.effective_strides(sizes)));
    const MixGeometry active = dictionary.geometry(1, sizes[0], sizes.size() > 1 ? sizes[1] : 1, whole_rows);
    SgdUse use{};
    use.grad = keep.back().data_ptr();
    use.rows = active.rows;
    use.run_length = active.run_length;
    keep.push_back(torch::stable::contiguous(codes[u]));
    use.code = keep.back().data_ptr();
    if (gates[u]) {
      keep.push_back(torch::stable::contiguous(*gates[u]));
      use.gate = keep.back().data_ptr();
    }
    uses.push_back(use);
  }
  args.uses = uses.data();
  args.use_count = static_cast<int64_t>(uses.size());

  run_sgd_update(args, work);
  if (work.data_ptr() != weight.data_ptr()) torch::stable::copy_(weight, work);
  if (buffer && buffer->data_ptr() != momentum_buffer->data_ptr())
    torch::stable::copy_(*momentum_buffer, *buffer);
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("sgd_update", TORCH_BOX(&kshot::sgd_update));
}
