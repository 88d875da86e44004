// The operator namespace; every csrc/ops/NAME.cpp adds its own operator to it.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(kshot_ext, m) {
  (void)m;
}
