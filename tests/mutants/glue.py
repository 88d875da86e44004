"""Faults in `csrc/ops`."""

from __future__ import annotations

from .cpu_kernels import ADAMW, CONV, MIX, NORM, SGD
from .mutant import Mutant

MUTANTS = (
    Mutant(
        "norm_pieces_joined_without_their_distance",
        "csrc/ops/join_moments.h",
        "squares[at] += moments[channels + c] + distance * distance * cross;",
        "squares[at] += moments[channels + c];",
        ("tests/ops/test_batch_norm_act.py", "tests/fuzz/test_corpus.py", "-k", "not compile"),
        "The variance of a large input lacks what its pieces differ by.",
    ),
    Mutant(
        "norm_eps_left_out",
        "csrc/ops/batch_norm_act.cpp",
        "std::sqrt(static_cast<double>(from[c]) + eps)",
        "std::sqrt(static_cast<double>(from[c]))",
        NORM,
        "Channels of no variance divide by zero.",
    ),
    Mutant(
        "norm_mean_gradient_without_weight",
        "csrc/ops/batch_norm_act.cpp",
        "total += factor * sums[n * 2 * channels + i];",
        "total += sums[n * 2 * channels + i];",
        NORM,
        "The mean gradient has no affine weight.",
    ),
    Mutant(
        "inactive_depthwise_gradient_not_cleared",
        "csrc/ops/depthwise_mixture.h",
        "if (channels_ < dictionary_.out_channels()) torch::stable::zero_(whole);",
        "",
        CONV,
        "The gradient of channels out of use is what lay in memory.",
    ),
    Mutant(
        "inactive_gradient_not_cleared",
        "csrc/ops/mixing.h",
        "if (need_weight && (g.samples == 0 || g.sample_size != g.shot_stride))",
        "if (need_weight && g.samples == 0)",
        MIX,
        "The gradient of channels out of use is what lay in memory.",
    ),
    Mutant(
        "code_gradient_not_cleared",
        "csrc/ops/mixing.cpp",
        "if (gradient->need_code) clear(gradient->grad_code);",
        "",
        MIX,
        "The code's gradient is added to what lay in memory.",
    ),
    Mutant(
        "momentum_in_an_odd_layout_not_written_back",
        "csrc/ops/dictionary_update.h",
        "written_.push_back({own, laid_out_as(own, dictionary_.strides())});",
        "written_.push_back({laid_out_as(own, dictionary_.strides()), laid_out_as(own, dictionary_.strides())});",
        SGD,
        "Momenta that had to be copied stay as they were.",
    ),
    Mutant(
        "adamw_step_of_the_first_weight",
        "csrc/ops/adamw_update.cpp",
        "update.set_step(steps[i], lr, weight_decay);",
        "update.set_step(steps[0], lr, weight_decay);",
        ADAMW,
        "Parameters that have missed steps are corrected as the first one.",
    ),
    Mutant(
        "bias_per_sample_of_the_batch",
        "csrc/ops/depthwise_conv2d.cpp",
        "bias && bias->dim() == 2 ? geometry.in_channels : 0;",
        "0;",
        CONV,
        "All samples take the bias of the first where codes are per sample.",
    ),
    Mutant(
        "sum_of_all_parts_but_one",
        "csrc/ops/sum_of_parts.h",
        "for (int64_t part = 0; part < count; ++part, parts += inner) {\n      for (int64_t i = 0; i < inner; ++i)",
        "for (int64_t part = 0; part < count; ++part, parts += inner) {\n      for (int64_t i = part == 7 ? inner : 0; "
        "i < inner; ++i)",
        ("tests/ops/test_many_samples.py", "tests/fuzz/test_corpus.py"),
        "Depthwise weight gradients of eight samples or more lack a part.",
    ),
    Mutant(
        "groups_of_samples_overlap",
        "csrc/ops/depthwise_tasks.h",
        "cpu::DepthwiseTask{group * batch / groups, (group + 1)",
        "cpu::DepthwiseTask{group * (batch / groups), (group + 1)",
        ("tests/ops/test_many_samples.py", "tests/fuzz/test_corpus.py"),
        "Batches that no group divides count samples twice.",
    ),
    Mutant(
        "slices_read_as_whole_images",
        "csrc/ops/conv_arguments.h",
        "return {static_cast<const T*>(tensor.data_ptr()), pixel_stride(tensor)};",
        "return {static_cast<const T*>(tensor.data_ptr()), tensor.size(1)};",
        ("tests/ops/test_channel_slices.py",),
        "The pixels of some channels of an image are looked for one after the other.",
    ),
)
