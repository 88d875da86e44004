"""Faults in norms, activations, pools and channel splits of the CPU."""

from __future__ import annotations

from .mutant import Mutant

NORM = ("tests/ops/test_batch_norm_act.py", "-k", "not compile")
POOL = ("tests/ops/test_avg_pool2d.py", "-k", "not compile")

MUTANTS = (
    Mutant(
        "pool_factors_of_the_wrong_side",
        "csrc/common/pool_axis.h",
        "result.of_source.push_back(static_cast<C>(axis.factor(o)))",
        "result.of_source.push_back(static_cast<C>(axis.factor(0)))",
        POOL,
        "Backward, all windows count as many positions as the first.",
    ),
    Mutant(
        "pool_gradient_without_the_first_window",
        "csrc/common/pool_axis.h",
        "const int64_t first = std::min(past / axis.stride, outputs);",
        "const int64_t first = std::min((past + axis.stride - 1) / axis.stride, outputs);",
        POOL,
        "An input does not see the first of the windows that hold it.",
    ),
    Mutant(
        "odd_channels_of_rests_lost",
        "csrc/cpu/channel_split.cpp",
        "    odd[i] = joined[2 * i + 1];\n",
        "    odd[i] = joined[2 * i];\n",
        ("tests/ops/test_channel_split.py",),
        "Behind the last whole vector, odd channels are the even ones.",
    ),
    Mutant(
        "norm_moments_joined_wrongly",
        "csrc/cpu/batch_norm_act.cpp",
        "distance * distance * (before * block / after)",
        "distance * distance * block",
        NORM,
        "The variance of more than one block of positions is too large.",
    ),
    Mutant(
        "norm_relu_swallows_nan",
        "csrc/cpu/activation_values.h",
        "return z > C(0) ? z : (z != z ? z : Vec<C>{});",
        "return z > C(0) ? z : Vec<C>{};",
        ("tests/ops/test_batch_norm_act.py", "tests/fuzz/test_corpus.py", "-k", "not compile"),
        "A NaN becomes zero.",
    ),
    Mutant(
        "norm_relu6_slope_at_zero",
        "csrc/cpu/activation_values.h",
        "return (z > C(0)) & (z < C(6)) ? g : zero;",
        "return (z >= C(0)) & (z < C(6)) ? g : zero;",
        NORM,
        "The gradient at the corner is not torch's.",
    ),
    Mutant(
        "norm_hardswish_slope_too_flat",
        "csrc/cpu/activation_values.h",
        "g * (z / C(3) + C(0.5))",
        "g * (z / C(6) + C(0.5))",
        NORM,
        "The gradient of hardswish is wrong between its corners.",
    ),
    Mutant(
        "norm_parameters_of_the_first_sample",
        "csrc/cpu/batch_norm_act.cpp",
        "static_cast<const C*>(values) + sample * stride + c, lanes)",
        "static_cast<const C*>(values) + c, lanes)",
        NORM,
        "All samples take the affine parameters of the first.",
    ),
    Mutant(
        "norm_mean_gradient_left_out",
        "csrc/cpu/batch_norm_act.cpp",
        "channels.scale * g - constant - (x",
        "channels.scale * g - (x",
        NORM,
        "The input's gradient lacks the part that comes through the mean.",
    ),
)
