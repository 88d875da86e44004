// How an operator's kernels are registered: by the CPU library, which also defines the schemas
// (ops/library.cpp), or by the CUDA library, which is loaded after it. Operators whose glue is alike on every
// backend are compiled into both.
#pragma once

#include <torch/csrc/stable/library.h>

#if !defined(KSHOT_DISPATCH_KEY)
#define KSHOT_DISPATCH_KEY CPU
#endif
#define KSHOT_KERNELS_OF(key, m) STABLE_TORCH_LIBRARY_IMPL(kshot_ext, key, m)
#define KSHOT_KERNELS(m) KSHOT_KERNELS_OF(KSHOT_DISPATCH_KEY, m)
