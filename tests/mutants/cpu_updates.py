"""Faults in steps of optimisers on the CPU: `sgd_update`, `adamw_update` and what they share."""

from __future__ import annotations

from .mutant import Mutant

SGD = ("tests/ops/test_sgd_update.py",)
ADAMW = ("tests/ops/test_adamw_update.py",)

MUTANTS = (
    Mutant(
        "sgd_row_beyond_a_narrow_use",
        "csrc/cpu/dictionary_update.h",
        "if (row >= use.rows || from",
        "if (row > use.rows || from",
        SGD,
        "A row beyond the width of a use takes a gradient from behind its end.",
    ),
    Mutant(
        "sgd_nesterov_without_momentum",
        "csrc/cpu/sgd_update.cpp",
        "nesterov ? g + momentum * *v : *v",
        "nesterov ? g + *v : *v",
        SGD,
        "Nesterov's step looks too far ahead.",
    ),
    Mutant(
        "sgd_without_dampening",
        "csrc/cpu/sgd_update.cpp",
        "+ undampened * g;",
        "+ g;",
        SGD,
        "Dampening has no effect.",
    ),
    Mutant(
        "sgd_never_maximises",
        "csrc/cpu/dictionary_update.h",
        "sign * gradient(i, some), values",
        "gradient(i, some), values",
        SGD,
        "`maximize` has no effect.",
    ),
    Mutant(
        "adamw_second_moment_not_corrected",
        "csrc/common/adamw_update.h",
        "spread = 1 / std::sqrt(1 - std::pow(beta2, t));",
        "spread = 1;",
        ADAMW,
        "The first steps are too long, for the second moment is still small.",
    ),
    Mutant(
        "adamw_decay_into_the_gradient",
        "csrc/common/adamw_update.h",
        "kept = 1 - lr * weight_decay;",
        "kept = 1 - weight_decay;",
        ADAMW,
        "The weight decays as much at every learning rate.",
    ),
    Mutant(
        "adamw_largest_moment_not_used",
        "csrc/cpu/adamw_update.cpp",
        "return moved(w, moments[0], moments[2]);",
        "return moved(w, moments[0], moments[1]);",
        ADAMW,
        "The largest second moment is kept, and the present one used.",
    ),
    Mutant(
        "adamw_largest_moment_loses_nan",
        "csrc/cpu/adamw_update.cpp",
        "((a >= b) | (a != a)) ? a : b;",
        "(a >= b) ? a : b;",
        ADAMW,
        "What is no number is forgotten when the next second moment comes.",
    ),
)
