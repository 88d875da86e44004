// What the glue uses of torch's stable headers that the oldest torch of pyproject.toml lacks. Each entry says
// which version has it: once that one is the oldest, the entry goes, and its users include torch's header.
//
// The stable ABI that the library is compiled for does not depend on the torch installed
// (TORCH_TARGET in kshot_ext/_native/flags.py); only the spelling of its headers does.
#pragma once

#include <torch/csrc/stable/library.h>

// torch 2.13. Before, the check went by its header-only name, which means the same for a target below 2.13.
#if !defined(STABLE_TORCH_ERROR_CODE_CHECK)
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif
