// Operators whose checks and allocation are alike on every backend, compiled once more with CUDA's passes.
#include "ops/adamw_update.cpp"
#include "ops/batch_norm_act.cpp"
#include "ops/dtw_align.cpp"
#include "ops/dynamic_group_weight.cpp"
#include "ops/effective_weight.cpp"
#include "ops/mix_weights.cpp"
#include "ops/sgd_update.cpp"
