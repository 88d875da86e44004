// Dense (groups = 1) links of a chain, channels_last: arguments and launch functions. The weight is mixed
// beforehand, which takes fewer bytes than to mix it in every block. Kernels: dense_gather.cuh with what
// links do besides in dense_links.cuh.
#pragma once

#include "cuda/chain.h"
#include "cuda/dense_conv2d.h"

namespace kshot::cuda {

struct ChainedDense {
  DType dtype;  // float32, bfloat16 or float16
  bool allow_tf32;
  ConvGeometry geometry;
  DenseDictionary weight;  // a single copy without a code
  const void* input;       // raw
  ChainNorm norm;
  void* output;            // raw
  float *mean, *variance;  // [C_out], of the output; null: not asked for
  void* workspace;         // as many bytes as the function below says, on a 16-byte boundary
};

struct ChainedDenseBackward {
  DType dtype;
  bool allow_tf32;
  ConvGeometry geometry;
  DenseDictionary weight;
  const void* input;
  ChainNorm norm;
  ChainGradient gradient;
  void* grad_input;    // or null
  float* norm_sums;    // [samples or 1, 2, C_in] as ChainNormGradient has them; null with grad_input
  float* grad_weight;  // [C_out, KH, KW, C_in], or null
  void* workspace;     // on a 16-byte boundary
};

// Whether there are kernels for a norm: one per sample asks for a stride of 1.
bool chained_dense_serves(const ChainNorm& norm, const ConvGeometry& geometry);

int64_t chained_dense_workspace(const ChainedDense& args);
void chained_dense(const ChainedDense& args, void* stream);
int64_t chained_dense_backward_workspace(const ChainedDenseBackward& args);
void chained_dense_backward(const ChainedDenseBackward& args, void* stream);

}  // namespace kshot::cuda
