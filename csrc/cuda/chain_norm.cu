// The maps of a chain's links (chain_values.cuh), and the gradients of a norm from the sums of a link: with
// factors s = weight * inverse_deviation,
//
//     dL/dmean = -sum_n s[n] * bias[n]      dL/dvariance = -inverse_deviation / 2 * sum_n s[n] * weight[n]
//
// where bias[n] and weight[n] are the sums of sample n, or of the batch. A thread a channel; the arrays are
// small.
#include "cuda/chain_values.cuh"
#include "cuda/division.cuh"

namespace kshot::cuda {
namespace {

constexpr int kNormThreads = 128;

__global__ void __launch_bounds__(kNormThreads) chain_norm_map_kernel(const ChainNormMap args) {
  const int channels = static_cast<int>(args.channels);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNormThreads + threadIdx.x;
  if (i >= args.samples * channels) return;
  const NormValues values(args.norm, i / channels, static_cast<int>(i % channels));
  args.scales[i] = values.scale;
  args.shifts[i] = values.shift;
}

__global__ void __launch_bounds__(kNormThreads) chain_gradient_map_kernel(const ChainGradientMap args) {
  const int c = static_cast<int>(blockIdx.x) * kNormThreads + static_cast<int>(threadIdx.x);
  if (c >= static_cast<int>(args.channels)) return;
  const GradientValues values(args.gradient, c);
  args.means[c] = values.mean;
  args.slopes[c] = values.slope;
  args.constants[c] = values.constant;
}

__global__ void __launch_bounds__(kNormThreads) chain_norm_gradient_kernel(const ChainNormGradient args) {
  const int channels = static_cast<int>(args.channels);
  const int c = static_cast<int>(blockIdx.x) * kNormThreads + static_cast<int>(threadIdx.x);
  if (c >= channels) return;
  float of_mean = 0, of_variance = 0;
#pragma unroll 1
  for (int64_t n = 0; n < args.samples; ++n) {
    const NormValues values(args.norm, n, c);
    const float bias = args.sums[2 * n * channels + c], weight = args.sums[(2 * n + 1) * channels + c];
    args.bias[n * channels + c] = bias;
    args.weight[n * channels + c] = weight;
    of_mean -= values.scale * bias;
    of_variance -= 0.5f * values.inverse_deviation * values.scale * weight;
  }
  args.mean[c] = of_mean;
  args.variance[c] = of_variance;
}

}  // namespace

void chain_norm_map(const ChainNormMap& args, void* stream) {
  const int64_t size = args.channels * args.samples;
  if (size == 0) return;
  KSHOT_LAUNCH(chain_norm_map_kernel, dim3(static_cast<unsigned>(ceil_div(size, kNormThreads))),
               dim3(kNormThreads), 0, static_cast<cudaStream_t>(stream), args);
}

void chain_gradient_map(const ChainGradientMap& args, void* stream) {
  if (args.channels == 0) return;
  KSHOT_LAUNCH(chain_gradient_map_kernel, dim3(static_cast<unsigned>(ceil_div(args.channels, kNormThreads))),
               dim3(kNormThreads), 0, static_cast<cudaStream_t>(stream), args);
}

void chain_norm_gradient(const ChainNormGradient& args, void* stream) {
  if (args.channels == 0) return;
  KSHOT_LAUNCH(chain_norm_gradient_kernel, dim3(static_cast<unsigned>(ceil_div(args.channels, kNormThreads))),
               dim3(kNormThreads), 0, static_cast<cudaStream_t>(stream), args);
}

}  // namespace kshot::cuda
