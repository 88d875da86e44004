// What every CUDA source includes: the CUDA headers, the launch of a kernel, and the two spellings that
// differ where a test compiles the kernels with a host compiler, on headers of its own that go by the same
// names.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// A host compiler cannot read what CUDA's own have for kernels; the emulator's can.
#if defined(__CUDACC__) || !defined(__CUDA_RUNTIME_H__)
#include <cuda_pipeline_primitives.h>
#include <mma.h>
#endif

#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(__CUDACC__)

// Only for KSHOT_LAUNCH.
#define KSHOT_START(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

// Declares `name`, a pointer to the block's dynamic shared memory.
#define KSHOT_DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(128) unsigned char kshot_dynamic_shared_memory[]; \
  type* name = reinterpret_cast<type*>(kshot_dynamic_shared_memory)

#endif

namespace kshot::cuda {

// Raises an error if the runtime refused to start `kernel`, just launched; does not wait for it. Asked after
// every launch, so that the error names the kernel it belongs to, not whatever is launched next.
inline void check_start(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("the CUDA kernel ") + kernel +
                           " did not start: " + cudaGetErrorString(error));
}

}  // namespace kshot::cuda

// Launches a kernel on a stream, and checks that it started; the arguments of the kernel come last.
#define KSHOT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)     \
  do {                                                                   \
    KSHOT_START(kernel, grid, block, shared_bytes, stream, __VA_ARGS__); \
    ::kshot::cuda::check_start(#kernel);                                 \
  } while (false)
