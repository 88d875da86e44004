"""Faults in the alignment of the CPU: `dtw_align`."""

from __future__ import annotations

from .mutant import Mutant

ALIGN = ("tests/ops/test_dtw_align.py", "-k", "not compile")

MUTANTS = (
    Mutant(
        "band_grows_too_late",
        "csrc/common/dtw_align.h",
        "if (high_rest_ >= whole_) {",
        "if (high_rest_ > whole_) {",
        ALIGN,
        "The far end of the band comes one anti-diagonal late where it meets a cell exactly.",
    ),
    Mutant(
        "cells_beside_the_band_cost_something",
        "csrc/cpu/dtw_align.cpp",
        "if (i < first) sum += load(",
        "if (i + kVector < first) sum += load(",
        ALIGN,
        "Lanes before the band's first cell keep their sums, and paths come from there.",
    ),
    Mutant(
        "sources_that_stray_are_followed",
        "csrc/cpu/dtw_align.cpp",
        "std::isfinite(cost) ? follow<false>(path) : follow<true>(path);",
        "std::isfinite(cost) ? follow<false>(path) : follow<false>(path);",
        ALIGN,
        "Where all costs are infinite, a path may leave the band.",
    ),
    Mutant(
        "start_of_the_path_anywhere",
        "csrc/cpu/dtw_align.cpp",
        "before_last[-1] = 0;",
        "before_last[-1] = 1;",
        ALIGN,
        "Every path costs one more.",
    ),
    Mutant(
        "gradient_of_targets_turned",
        "csrc/cpu/dtw_align.cpp",
        "if (grad_t) grad_t[j * channels + c] -= value;",
        "if (grad_t) grad_t[j * channels + c] += value;",
        ALIGN,
        "Targets move away from predictions.",
    ),
)
