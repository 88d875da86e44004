// Launch of the kernels in dtw_align.cuh.
#include "cuda/dtw_align.cuh"

#include <algorithm>

#include "cuda/dtw_align.h"

namespace kshot::cuda {
namespace {

constexpr int64_t kAlignment = 16;

int64_t most_cells(const DtwAlign& args) {
  // Of the longest pair the band may be the narrower one, as its sequences may differ more in length.
  return std::min({2 * args.band + 3, args.rows, args.columns});
}

AlignStore store_of(const DtwAlign& args) {
  const auto rounded = [](int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; };
  const int64_t element = args.dtype == DType::kFloat64 ? 8 : 4;
  AlignStore store{};
  store.words = static_cast<int>((most_cells(args) + 2 + kWarpSize - 1) / kWarpSize + 1);
  store.cost_bytes = rounded(std::max<int64_t>(3 * (args.rows + 2) * element, kAlignment));
  store.source_bytes = rounded(args.path_size() * (2 * store.words + 1) * 4);
  store.shared_costs = store.cost_bytes <= kAlignShared;
  store.shared_sources = store.source_bytes + (store.shared_costs ? store.cost_bytes : 0) <= kAlignShared;
  return store;
}

// Calls body with a null pointer to the type that the points have.
template <class Body>
void with_type(DType dtype, const Body& body) {
  if (dtype == DType::kFloat64) {
    body(static_cast<double*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

unsigned threads_for(int64_t work) {
  const int64_t warps = (work + kWarpSize - 1) / kWarpSize;
  return static_cast<unsigned>(std::min<int64_t>(warps * kWarpSize, kMostAlignThreads));
}

}  // namespace

int64_t dtw_align_workspace(const DtwAlign& args) {
  return args.count * store_of(args).global_bytes();
}

void dtw_align(const DtwAlign& args, void* workspace, void* stream) {
  if (args.count == 0) return;
  const AlignJob job{args, store_of(args), static_cast<unsigned char*>(workspace)};
  with_type(args.dtype, [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    KSHOT_LAUNCH(dtw_align_kernel<C>, dim3(static_cast<unsigned>(args.count)),
                 dim3(threads_for(most_cells(args) + 2)), static_cast<size_t>(job.store.shared_bytes()),
                 static_cast<cudaStream_t>(stream), job);
  });
}

void dtw_align_backward(const DtwAlignBackward& args, void* stream) {
  if (args.forward.count == 0) return;
  with_type(args.forward.dtype, [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    KSHOT_LAUNCH(dtw_align_backward_kernel<C>, dim3(static_cast<unsigned>(args.forward.count)),
                 dim3(threads_for(args.forward.path_size())), 0, static_cast<cudaStream_t>(stream), args);
  });
}

}  // namespace kshot::cuda
