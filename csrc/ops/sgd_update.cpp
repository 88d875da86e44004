// Operator sgd_update: one optimiser step on a dictionary, in place. Kernel: cpu/sgd_update.cpp.
#include "cpu/sgd_update.h"

#include "ops/dictionary.h"

namespace kshot {
namespace {

// Runs `body(pointer, strides)` on `tensor`, laid out as the kernels want it, and copies the result back if
// need be.
void sgd_update(Tensor weight,                             // [K, C_out, ...], updated
                std::optional<Tensor> momentum_buffer,     // like weight, updated
                std::optional<Tensor> grad,                // like weight
                std::vector<Tensor> codes,                 // each [K]
                std::vector<std::optional<Tensor>> gates,  // each [C_out']
                std::vector<Tensor> grads,                 // each [C_out', C_in', *kernel]
                double lr, double momentum, double dampening, double weight_decay, bool nesterov) {
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
    const int64_t in_channels = grads[u].dim() > 1 ? grads[u].size(1) : 1;
    whole_rows = whole_rows || gates[u] || grads[u].size(0) != dictionary.out_channels() ||
                 in_channels != dictionary.in_channels();
  }
  cpu::SgdUpdate args{};
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
  std::vector<cpu::SgdUse> uses;
  for (size_t u = 0; u < grads.size(); ++u) {
    const Sizes sizes = sizes_of(grads[u]);
    keep.push_back(laid_out_as(grads[u], dictionary.effective_strides(sizes)));
    const MixGeometry active = dictionary.geometry(1, sizes[0], sizes.size() > 1 ? sizes[1] : 1, whole_rows);
    cpu::SgdUse use{};
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

  torch::stable::parallel_for(0, args.geometry.rows, grain_of(args.geometry),
                              [&](int64_t begin, int64_t end) { KSHOT_CALL(sgd_update, args, begin, end); });
  if (work.data_ptr() != weight.data_ptr()) torch::stable::copy_(weight, work);
  if (buffer && buffer->data_ptr() != momentum_buffer->data_ptr())
    torch::stable::copy_(*momentum_buffer, *buffer);
}

}  // namespace
}  // namespace kshot

STABLE_TORCH_LIBRARY_FRAGMENT(kshot_ext, m) {
  m.def(
      "sgd_update(Tensor(a!) weight, Tensor(b!)? momentum_buffer, Tensor? grad, Tensor[] codes, Tensor?[] "
      "gates, "
      "Tensor[] grads, float lr, float momentum, float dampening, float weight_decay, bool nesterov) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(kshot_ext, CPU, m) {
  m.impl("sgd_update", TORCH_BOX(&kshot::sgd_update));
}
