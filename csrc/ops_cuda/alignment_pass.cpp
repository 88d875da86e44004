// The passes of dtw_align on CUDA. What lengths and paths hold is left to the kernels: to read it here would
// wait for the device.
#include "ops/alignment_pass.h"

#include "cuda/dtw_align.h"
#include "ops_cuda/launch.h"

namespace kshot {

void run_alignment(const DtwAlign& args, const Tensor& like) {
  Tensor workspace = scratch(cuda::dtw_align_workspace(args), like);
  const Launch launch(like);
  cuda::dtw_align(args, workspace.data_ptr(), launch.stream());
}

void run_alignment_backward(const DtwAlignBackward& args, const Tensor& like) {
  const Launch launch(like);
  cuda::dtw_align_backward(args, launch.stream());
}

}  // namespace kshot
