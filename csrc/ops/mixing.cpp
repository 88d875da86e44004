// Parallel passes over one or many dictionaries on the CPU.
#include "ops/mixing.h"

#include <cstring>

#include "cpu/effective_weight.h"
#include "ops/parallel_rows.h"

namespace kshot {
namespace {

// The kernels' arguments of one backward pass, and the tensor of partial sums behind them.
struct Backward {
  explicit Backward(const MixingGradients& gradients) {
    const MixGeometry& g = gradients.mixing.geometry();
    args.forward = gradients.mixing.kernel_arguments();
    args.grad = gradients.grad.data_ptr();
    if (gradients.need_weight) {
      args.grad_weight = gradients.grad_weight.data_ptr();
      args.past_caches = exceeds_caches(gradients.grad_weight);
    }
    if (gradients.need_code || gradients.need_gate) {
      const Tensor& code = gradients.mixing.code();
      const Sizes sizes{g.samples * g.rows * g.shots};
      row_dots = empty_strided(sizes, contiguous_strides(sizes), code.scalar_type(), code);
      args.row_dots = row_dots->data_ptr();
    }
    reduce.grad_code = gradients.need_code ? gradients.grad_code.data_ptr() : nullptr;
    reduce.grad_gate = gradients.need_gate ? gradients.grad_gate.data_ptr() : nullptr;
  }

  std::optional<Tensor> row_dots;
  cpu::EffectiveWeightBackward args{};
  cpu::EffectiveWeightReduce reduce{};
};

void clear(Tensor& contiguous) {
  if (contiguous.numel() > 0)
    std::memset(contiguous.data_ptr(), 0, static_cast<size_t>(bytes_of(contiguous)));
}

}  // namespace

void run_forward(const std::vector<EffectiveWeight>& mixings, const Tensor&) {
  std::vector<const MixGeometry*> geometries;
  for (const auto& mixing : mixings) geometries.push_back(&mixing.geometry);
  parallel_rows(geometries, [&](size_t index, int64_t begin, int64_t end) {
    KSHOT_CALL(effective_weight, mixings[index], begin, end);
  });
}

void run_backward(const std::vector<MixingGradients*>& gradients) {
  std::vector<Backward> passes;
  std::vector<const MixGeometry*> geometries;
  for (MixingGradients* gradient : gradients) {
    passes.emplace_back(*gradient);
    geometries.push_back(&gradient->mixing.geometry());
    // The sums below are added to.
    if (gradient->need_code) clear(gradient->grad_code);
    if (gradient->need_gate) clear(gradient->grad_gate);
  }
  parallel_rows(geometries, [&](size_t index, int64_t begin, int64_t end) {
    const cpu::EffectiveWeightBackward& args = passes[index].args;
    if (args.grad_weight || args.row_dots) KSHOT_CALL(effective_weight_backward, args, begin, end);
  });
  for (Backward& pass : passes) {
    if (!pass.args.row_dots) continue;
    pass.reduce.backward = &pass.args;
    KSHOT_CALL(effective_weight_reduce, pass.reduce);
  }
}

}  // namespace kshot
