"""Faults in what all kernels of the CPU are made of: `csrc/cpu/simd.h`."""

from __future__ import annotations

from .mutant import Mutant

SETS = ("tests/ops/test_instruction_sets.py",)
LARGE = ("tests/ops/test_large_results.py",)

MUTANTS = (
    Mutant(
        "stores_past_caches_of_uneven_rows",
        "csrc/cpu/simd.h",
        "% kVectorBytes == 0 && row % kLanes<Sum<T>> == 0;",
        "% kVectorBytes == 0;",
        LARGE,
        "Streaming stores go to addresses that are not aligned.",
    ),
    Mutant(
        "bfloat16_ties_rounded_up",
        "csrc/cpu/simd.h",
        "bits + 0x7fffu + ((bits >> 16) & 1u);",
        "bits + 0x8000u;",
        SETS,
        "Ties go up in place of to the even neighbour.",
    ),
    Mutant(
        "float16_ties_rounded_up",
        "csrc/cpu/simd.h",
        "bits + 0xfffu + ((bits >> 13) & 1u);",
        "bits + 0x1000u;",
        SETS,
        "The same for float16, where the processor has no instruction for it.",
        instruction_set="portable",
    ),
    Mutant(
        "float16_subnormals_lost",
        "csrc/cpu/simd.h",
        "const float value = static_cast<float>(magnitude) * 0x1p-24f;",
        "const float value = static_cast<float>(magnitude) * 0x1p-25f;",
        SETS,
        "Subnormal float16 values are read as half of what they are.",
        instruction_set="portable",
    ),
)
