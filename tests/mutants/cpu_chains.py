"""Faults in the chains of the CPU: `csrc/cpu/chained_*`, their strips, and norms that are folded."""

from __future__ import annotations

from .mutant import Mutant

LINK = ("tests/ops/test_chained_conv2d.py", "-k", "not compile")
END = ("tests/ops/test_chained_norm_act.py", "-k", "not compile")
FOLDED = ("tests/ops/test_folded_conv2d.py", "-k", "not compile")

MUTANTS = (
    Mutant(
        "chain_ring_kept_between_samples",
        "csrc/cpu/chained_depthwise.cpp",
        "void start() { std::fill(held_.begin(), held_.end(), -1); }",
        "void start() {}",
        LINK,
        "A sample begins with rows of the one before it.",
    ),
    Mutant(
        "chain_weight_of_the_first_sample",
        "csrc/cpu/chained_depthwise.cpp",
        "if (loaded_ && !args_.weight_stride) return;",
        "if (loaded_) return;",
        LINK,
        "The samples of a task take the weight of its first.",
    ),
    Mutant(
        "chain_moments_forget_earlier_blocks",
        "csrc/cpu/chained_depthwise.cpp",
        "      before += positions;\n",
        "",
        LINK,
        "Each block of a depthwise link joins its moments as if it were the first.",
    ),
    Mutant(
        "chain_moments_forget_earlier_strips",
        "csrc/ops/chained_dense.cpp",
        "      if (mean) moments.count(group) += (end - first) * g.width.output;\n",
        "      if (mean) moments.count(group) = (end - first) * g.width.output;\n",
        LINK,
        "Each strip of a dense link joins its moments as if there were only one before it.",
    ),
    Mutant(
        "chain_end_slope_without_residual",
        "csrc/cpu/chained_passes.cpp",
        "      F z = value * scale + shift;\n      if (residual) z += load_lanes(residual + at, lanes);\n",
        "      F z = value * scale + shift;\n",
        END,
        "Backward, the activation's slope is taken where the residual was not yet added.",
    ),
    Mutant(
        "chain_sum_of_products_about_zero",
        "csrc/cpu/chained_passes.cpp",
        "sum_deviation += h * (value - mean);",
        "sum_deviation += h * value;",
        END,
        "The gradient of the norm's weight forgets the mean.",
    ),
    Mutant(
        "chain_gradient_of_residual_scaled",
        "csrc/cpu/chained_passes.cpp",
        "store_lanes(grad_residual + at, h, lanes, past_caches);",
        "store_lanes(grad_residual + at, h * scale, lanes, past_caches);",
        END,
        "The residual's gradient passes through the norm, which it was added behind.",
    ),
    Mutant(
        "chain_last_rows_of_the_input_lost",
        "csrc/ops/chain_strips.h",
        "is_last ? axis.input : inside(strip.outputs.end * axis.stride, axis.input)};",
        "inside(strip.outputs.end * axis.stride, axis.input)};",
        LINK,
        "Rows below those that the last output row starts from belong to no strip: their gradient is never written.",
    ),
    Mutant(
        "chain_plans_of_strips_mistaken",
        "csrc/ops/chain_strips.h",
        "height.output == axis.output &&\n          height.padding == axis.padding) {",
        "height.output == axis.output) {",
        LINK,
        "A strip at the border takes the plan of one inside.",
    ),
    Mutant(
        "chain_strip_without_the_rows_above",
        "csrc/ops/chain_strips.h",
        "strip.fed = {std::min(y, inside(lowest / axis.stride, axis.output)),",
        "strip.fed = {y,",
        LINK,
        "Output rows above a strip, which its inputs feed as well, give no gradient.",
    ),
    Mutant(
        "folded_shift_forgets_the_deviation",
        "csrc/ops/folded_conv2d.cpp",
        "static_cast<double>(floats_of(means)[c]) * scale);",
        "static_cast<double>(floats_of(means)[c]));",
        FOLDED,
        "The mean is taken from the output in the units of the raw one.",
    ),
    Mutant(
        "folded_norm_of_the_first_sample",
        "csrc/ops/folded_conv2d.cpp",
        "(values->dim() == 2 ? n * values->stride(0) : 0)",
        "0",
        FOLDED,
        "All samples take the norm's parameters of the first.",
    ),
)
