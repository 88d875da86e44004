"""Faults in mixing on the CPU, by codes and by groups: `csrc/cpu` and `csrc/common`."""

from __future__ import annotations

from .mutant import Mutant

MIX = ("tests/ops/test_effective_weight.py", "tests/ops/test_instruction_sets.py", "-k", "not compile")
GROUPS = ("tests/ops/test_dynamic_group_weight.py", "-k", "not compile")
PLACES = ("tests/ops/test_place_codes.py",)

MUTANTS = (
    Mutant(
        "dots_of_too_many_copies",
        "csrc/cpu/mix_chunks.h",
        "const int64_t block = std::min(kShotBlock, shots - k);",
        "const int64_t block = kShotBlock;",
        MIX,
        "Code gradients of copies beyond the last overwrite those of the next row.",
    ),
    Mutant(
        "gate_left_out_of_whole_vectors",
        "csrc/cpu/mix_chunks.h",
        "for (int64_t v = 0; v < 4; ++v) store(output + i + v * lanes, scale * sum[v]);",
        "for (int64_t v = 0; v < 4; ++v) store(output + i + v * lanes, sum[v]);",
        MIX,
        "The gate is forgotten on the stretches of a row that fill four vectors.",
    ),
    Mutant(
        "gate_left_out_of_the_weight_gradient",
        "csrc/cpu/mix_chunks.h",
        "const Vec<C> g = scale(n) * (count",
        "const Vec<C> g = C(1) * (count",
        MIX,
        "The dictionary's gradient has no gate.",
    ),
    Mutant(
        "code_left_out_of_the_gate_gradient",
        "csrc/cpu/effective_weight.cpp",
        "gate_sum += typed.code(n, row)[k] * dots[k];",
        "gate_sum += dots[k];",
        MIX,
        "The gate's gradient has no code.",
    ),
    Mutant(
        "gate_left_out_of_the_code_gradient",
        "csrc/cpu/effective_weight.cpp",
        "+ n * geometry.shots + k] += gate * dots[k];",
        "+ n * geometry.shots + k] += dots[k];",
        MIX,
        "The code's gradient has no gate.",
    ),
    Mutant(
        "codes_of_rows_left_out_of_mixing",
        "csrc/cpu/effective_weight.cpp",
        "args.code) + row * args.code_row_stride + n",
        "args.code) + n",
        PLACES,
        "All taps of a depthwise kernel are mixed by the code of the first place.",
    ),
    Mutant(
        "copy_offset_in_32_bits",
        "csrc/cpu/mix_chunks.h",
        "    Vec<C> sum = {};\n    for (int64_t k = 0; k < shots; ++k) {\n"
        "      const T* copy = weight + k * shot_stride + i;",
        "    Vec<C> sum = {};\n    for (int64_t k = 0; k < shots; ++k) {\n"
        "      const T* copy = weight + static_cast<int32_t>(k * shot_stride) + i;",
        ("tests/ops/test_far_offsets.py",),
        "Copies that begin beyond 2^31 elements are read from elsewhere.",
    ),
    Mutant(
        "stretches_joined_for_gates",
        "csrc/cpu/dynamic_group_weight.cpp",
        "for_each_stretch(typed, begin, end, block_sums != nullptr, differentiate);",
        "for_each_stretch(typed, begin, end, false, differentiate);",
        GROUPS,
        "Blocks that differ in other bits add to the same gate.",
    ),
    Mutant(
        "gate_told_of_nothing_closed",
        "csrc/cpu/dynamic_group_weight.cpp",
        "for (char& count : closed) count = count < 2;",
        "for (char& count : closed) count = count < 1;",
        GROUPS,
        "A gate of zero has no gradient, and could never open.",
    ),
    Mutant(
        "first_gate_owns_the_lowest_bit",
        "csrc/common/group_relation.h",
        "return int64_t{1} << (gates - 1 - j);",
        "return int64_t{1} << j;",
        GROUPS,
        "Groups are interleaved where they should lie side by side.",
    ),
    Mutant(
        "mask_left_out_of_the_weight_gradient",
        "csrc/cpu/dynamic_group_weight.cpp",
        "typed.code(0), [&](int64_t) { return relation; },",
        "typed.code(0), [&](int64_t) { return C(1); },",
        GROUPS,
        "Real gates do not scale the dictionary's gradient.",
    ),
    Mutant(
        "packed_offset_of_runs",
        "csrc/common/mix_geometry.h",
        "return (row * runs + run) * run_length;",
        "return row * runs * run_length + run;",
        MIX,
        "Runs of a dictionary in channels_last overlap in the effective weight.",
    ),
    Mutant(
        "last_flat_row_too_long",
        "csrc/common/mix_geometry.h",
        "return row + 1 == rows ? last_run_length : run_length;",
        "return run_length;",
        MIX,
        "The last row of a flat copy is written beyond its end.",
    ),
)
