// Parallel passes over one or many dictionaries.
#include "ops/mixing.h"

namespace kshot {
namespace {

// Spreads the rows of all `geometries` over threads; body(index, begin, end) works off rows of one of them.
template <class Body>
void parallel_rows(const std::vector<const MixGeometry*>& geometries, const Body& body) {
  std::vector<int64_t> starts{0};
  int64_t grain = 1;
  for (const MixGeometry* geometry : geometries) {
    starts.push_back(starts.back() + geometry->rows);
    grain = std::max(grain, grain_of(*geometry));
  }
  torch::stable::parallel_for(0, starts.back(), grain, [&](int64_t begin, int64_t end) {
    size_t index = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
    for (; begin < end; ++index) {
      const int64_t stop = std::min(end, starts[index + 1]);
      body(index, begin - starts[index], stop - starts[index]);
      begin = stop;
    }
  });
}

}  // namespace

void run_forward(const std::vector<cpu::EffectiveWeight>& mixings) {
  std::vector<const MixGeometry*> geometries;
  for (const auto& mixing : mixings) geometries.push_back(&mixing.geometry);
  parallel_rows(geometries, [&](size_t index, int64_t begin, int64_t end) {
    KSHOT_CALL(effective_weight, mixings[index], begin, end);
  });
}

void run_backward(const std::vector<MixingGradients*>& gradients) {
  std::vector<const MixGeometry*> geometries;
  for (const auto* gradient : gradients) geometries.push_back(&gradient->args.forward.geometry);
  parallel_rows(geometries, [&](size_t index, int64_t begin, int64_t end) {
    const cpu::EffectiveWeightBackward& args = gradients[index]->args;
    if (args.grad_weight || args.row_dots) KSHOT_CALL(effective_weight_backward, args, begin, end);
  });
  for (auto* gradient : gradients) {
    if (!gradient->args.row_dots) continue;
    gradient->reduce.backward = &gradient->args;
    KSHOT_CALL(effective_weight_reduce, gradient->reduce);
  }
}

}  // namespace kshot
