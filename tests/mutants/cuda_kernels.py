"""Faults in `csrc/cuda`; the tests run the kernels on the host's emulator."""

from __future__ import annotations

from .mutant import Mutant

MIX = ("tests/cuda_emulation/test_effective_weight.py",)
GROUPS = ("tests/cuda_emulation/test_dynamic_group_weight.py",)
SGD = ("tests/cuda_emulation/test_sgd_update.py",)
ADAMW = ("tests/cuda_emulation/test_adamw_update.py",)
NORM = ("tests/cuda_emulation/test_batch_norm_act.py",)
DEPTHWISE = ("tests/cuda_emulation/test_depthwise_conv2d.py",)
DENSE = ("tests/cuda_emulation/test_dense_conv2d.py",)
DEPTHWISE_CHAIN = ("tests/cuda_emulation/test_chained_depthwise.py",)
DENSE_CHAIN = ("tests/cuda_emulation/test_chained_dense.py",)

ALIGN = ("tests/cuda_emulation/test_dtw_align.py",)

MUTANTS = (
    Mutant(
        "anti_diagonals_without_a_barrier",
        "csrc/cuda/dtw_align.cuh",
        "      __syncthreads();\n      if (k == walk.diagonals() - 1) return current[rows_ - 1];",
        "      if (k == walk.diagonals() - 1) return current[rows_ - 1];",
        ALIGN,
        "Cells read neighbours that are not made yet.",
    ),
    Mutant(
        "cells_beside_the_band_not_written",
        "csrc/cuda/dtw_align.cuh",
        "if (first - 1 <= i && i <= end + 1) current[i] = least;",
        "if (inside) current[i] = least;",
        ALIGN,
        "Cells beside the band are those of three anti-diagonals before.",
    ),
    Mutant(
        "path_moved_over_itself",
        "csrc/cuda/dtw_align.cuh",
        "path_[2 * (start + s) + 1]};\n      __syncthreads();",
        "path_[2 * (start + s) + 1]};",
        ALIGN,
        "Steps are overwritten before another thread has read them.",
    ),
    Mutant(
        "gradients_by_every_pair",
        "csrc/cuda/dtw_align.cuh",
        "(s > 0 && path[2 * (s - 1) + side] == point)",
        "(s > 1 && path[2 * (s - 1) + side] == point)",
        ALIGN,
        "The second pair of the first point adds its run again.",
    ),
    Mutant(
        "stash_of_one_copy_more",
        "csrc/cuda/effective_weight.cuh",
        "constexpr int kStashedCopies = 16;",
        "constexpr int kStashedCopies = 17;",
        MIX,
        "17 copies go to shared memory, and fewer blocks fit a multiprocessor.",
    ),
    Mutant(
        "stash_used_beyond_its_end",
        "csrc/cuda/effective_weight.cuh",
        "const bool stashed = shots <= kStashedCopies;",
        "const bool stashed = shots <= kStashedCopies + 1;",
        (*MIX, "-m", "long", "-k", "shared_memory"),
        "With 17 copies and codes per sample, shared memory is written beyond its end.",
    ),
    Mutant(
        "copies_of_the_first_warp_again",
        "csrc/cuda/effective_weight.cuh",
        "elements.load_copy(weight + (first + k + c) * job.shape.shot_stride);",
        "elements.load_copy(weight + (k + c) * job.shape.shot_stride);",
        MIX,
        "Beyond 32 copies the first ones are mixed again.",
    ),
    Mutant(
        "gate_of_the_first_sample",
        "csrc/cuda/effective_weight.cuh",
        "static_cast<const Sum<T>*>(job.gate) + static_cast<int64_t>(sample) * job.shape.gate_stride;",
        "static_cast<const Sum<T>*>(job.gate);",
        MIX,
        "All samples take the gate of the first.",
    ),
    Mutant(
        "gate_counts_itself",
        "csrc/cuda/dynamic_group_weight_backward.cuh",
        "gates.relation(own.bits[i] & ~gates.bit(j))",
        "gates.relation(own.bits[i])",
        GROUPS,
        "A gate's gradient is scaled by the gate, so that a gate of zero has none.",
    ),
    Mutant(
        "dots_of_the_next_copies_too_early",
        "csrc/cuda/dynamic_group_weight_backward.cuh",
        "          __syncthreads();  // the next copies' dots come to the same place\n",
        "",
        GROUPS,
        "With more than eight copies a warp overwrites sums that another one has not read.",
    ),
    Mutant(
        "vectors_of_unaligned_copies",
        "csrc/cuda/mix_tile.cuh",
        "is_multiple(shape.run_length, lanes) && is_multiple(geometry.shot_stride, lanes) &&",
        "is_multiple(shape.run_length, lanes) &&",
        MIX,
        "Copies of an odd size are read by 16 bytes at addresses that are no multiple of them.",
    ),
    Mutant(
        "copy_stride_in_32_bits",
        "csrc/cuda/mix_tile.cuh",
        "struct MixShape {\n  int64_t shot_stride;",
        "struct MixShape {\n  int shot_stride;",
        (*MIX, "-m", "long", "-k", "32_bits"),
        "Copies that begin beyond 2^31 elements are read from elsewhere.",
    ),
    Mutant(
        "sgd_row_beyond_a_narrow_use_on_cuda",
        "csrc/cuda/dictionary_update.cuh",
        "const bool active = at(i) < use.size && place.rest < use.run_length;",
        "const bool active = at(i) <= use.size && place.rest < use.run_length;",
        SGD,
        "An element beyond the width of a use takes a gradient from behind its end.",
    ),
    Mutant(
        "depthwise_channels_beyond_the_last",
        "csrc/cuda/depthwise_tile.cuh",
        "static_cast<unsigned>(place.height) &&\n                            place.channel + plane < place.channels;",
        "static_cast<unsigned>(place.height);",
        DEPTHWISE,
        "A block of planes reads beyond the last channel.",
    ),
    Mutant(
        "norm_bias_of_the_first_sample_on_cuda",
        "csrc/cuda/batch_norm_act.cuh",
        "shift = value(args.bias, sample * args.bias_stride + channel, C(0)) - mean * factor;",
        "shift = value(args.bias, channel, C(0)) - mean * factor;",
        NORM,
        "All samples take the bias of the first.",
    ),
    Mutant(
        "last_copy_not_mixed",
        "csrc/cuda/dense_mixed_weight.cuh",
        "for (int k = kAhead; k < weight_.shots; ++k) {",
        "for (int k = kAhead; k + 1 < weight_.shots; ++k) {",
        DENSE,
        "Of more than two copies the last is left out.",
    ),
    Mutant(
        "sgd_without_dampening_on_cuda",
        "csrc/cuda/sgd_update.cuh",
        "undampened(1 - update.dampening)",
        "undampened(1)",
        SGD,
        "Dampening has no effect.",
    ),
    Mutant(
        "adamw_largest_moment_not_used_on_cuda",
        "csrc/cuda/adamw_update.cuh",
        "u = largest;",
        "u = v;",
        ADAMW,
        "The largest second moment is kept, and the present one used.",
    ),
    Mutant(
        "state_of_the_first_copy_on_cuda",
        "csrc/cuda/dictionary_update.cuh",
        "states[c][s] = elements.load(state + c * job.shot_stride);",
        "states[c][s] = elements.load(state);",
        ADAMW,
        "All copies of a block start from the moments of its first one.",
    ),
    Mutant(
        "chain_padding_is_normalised_on_cuda",
        "csrc/cuda/dense_links.cuh",
        "if (!inside) return;\n      apply_norm<T, kLanes>",
        "apply_norm<T, kLanes>",
        DENSE_CHAIN,
        "Beyond the image lies what the norm makes of zero in place of zero.",
    ),
    Mutant(
        "chain_moments_about_zero_on_cuda",
        "csrc/cuda/depthwise_links.cuh",
        "pivot *= share;",
        "pivot = 0;",
        DEPTHWISE_CHAIN,
        "Sums of squares are taken about zero, and cancel where means are large.",
    ),
    Mutant(
        "chain_gradient_of_turned_taps_on_cuda",
        "csrc/cuda/depthwise_links.cuh",
        "args_.turned && t < taps ? taps - 1 - t : t",
        "t",
        DEPTHWISE_CHAIN,
        "The gradient of the weight comes from the last tap to the first.",
    ),
    Mutant(
        "chain_norm_of_the_first_sample_on_cuda",
        "csrc/cuda/dense_links.cuh",
        "const int64_t values = sample * products_.norm_stride + this->channel();",
        "const int64_t values = this->channel();",
        DENSE_CHAIN,
        "All samples take the norm of the first in the gradient of the weight.",
    ),
    Mutant(
        "chain_sums_of_blocks_left_out_on_cuda",
        "csrc/cuda/dense_links.cuh",
        "sums[first_column + c] = 0;",
        ";",
        DENSE_CHAIN,
        "Blocks without places leave sums of whatever was there.",
    ),
)
