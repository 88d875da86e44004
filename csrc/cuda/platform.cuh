// What every CUDA source includes: the CUDA headers, and the two spellings that differ where a test compiles
// the kernels with a host compiler, on headers of its own that go by the same names.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>
#include <mma.h>

#include <cstdint>

#if defined(__CUDACC__)

// Launches a kernel on a stream; the arguments of the kernel come last.
#define KSHOT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

// Declares `name`, a pointer to the block's dynamic shared memory.
#define KSHOT_DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(128) unsigned char kshot_dynamic_shared_memory[]; \
  type* name = reinterpret_cast<type*>(kshot_dynamic_shared_memory)

#endif
