"""Faults in `kshot_ext/ops`."""

from __future__ import annotations

from .cpu_kernels import CONV, NORM
from .mutant import Mutant

FORMS = ("tests/ops/test_conv_forms.py", "tests/ops/test_auto_rule.py")

MUTANTS = (
    Mutant(
        "cuda_fuses_too_many_copies",
        "kshot_ext/ops/conv_forms.py",
        "MOST_CUDA_COPIES = 128",
        "MOST_CUDA_COPIES = 129",
        FORMS,
        "CUDA's kernel is called with more copies than its codes have room for.",
    ),
    Mutant(
        "auto_fuses_pointwise_convolutions_on_cuda",
        "kshot_ext/ops/auto_rule.py",
        "return call.per_sample and not is_linear_map(call)",
        "return call.per_sample",
        FORMS,
        "The rule of `auto` on CUDA gives 1x1 layers with codes per sample to our kernel.",
    ),
    Mutant(
        "auto_fuses_thin_per_sample_convolutions",
        "kshot_ext/ops/auto_rule.py",
        "return call.widths.in_channels >= 8",
        "return call.widths.in_channels > 8",
        FORMS,
        "The rule of `auto` moves by a channel.",
    ),
    Mutant(
        "auto_changes_the_layout_of_thin_images",
        "kshot_ext/ops/auto_rule.py",
        "return taps == 1 and inputs * outputs >= 24 * (inputs + outputs)",
        "return taps == 1",
        FORMS,
        "The rule of `auto` brings contiguous images of few channels to channels_last.",
    ),
    Mutant(
        "auto_never_fuses_few_pixels",
        "kshot_ext/ops/auto_rule.py",
        "return channels_last and (min(inputs, outputs) >= 16 or positions <= 1024)",
        "return channels_last and min(inputs, outputs) >= 16",
        FORMS,
        "The rule of `auto` leaves out calls that take longer than their products.",
    ),
    Mutant(
        "padded_pixel_taken_for_a_linear_map",
        "kshot_ext/ops/conv_forms.py",
        "math.prod(call.weight.shape[3:]) == 1 and not any(call.window.padding) and call.widths.groups == 1",
        "math.prod(call.weight.shape[3:]) == 1 and call.widths.groups == 1",
        (*FORMS, "tests/fuzz/test_corpus.py"),
        "A 1x1 convolution of one padded pixel loses its rim.",
    ),
    Mutant(
        "grouped_pixel_taken_for_a_linear_map",
        "kshot_ext/ops/conv_forms.py",
        "math.prod(call.weight.shape[3:]) == 1 and not any(call.window.padding) and call.widths.groups == 1",
        "math.prod(call.weight.shape[3:]) == 1 and not any(call.window.padding)",
        (*FORMS, "tests/fuzz/test_corpus.py"),
        "A grouped 1x1 convolution of one pixel reads the channels of one group.",
    ),
    Mutant(
        "stacked_bias_gated_twice",
        "kshot_ext/ops/per_sample_linear.py",
        "mixed_bias = effective_bias(bias, code, None, out_channels)",
        "mixed_bias = effective_bias(bias, code, gate, out_channels)",
        ("tests/ops/test_per_sample_linear.py", "tests/ops/test_kshot_linear.py", "-k", "not compile"),
        "The bias of a linear map with codes per sample is gated twice.",
    ),
    Mutant(
        "running_variance_biased",
        "kshot_ext/ops/batch_norm_act.py",
        "running_var.lerp_((variance * (count / (count - 1)))",
        "running_var.lerp_((variance)",
        NORM,
        "The running variance is the biased one.",
    ),
    Mutant(
        "same_padding_on_the_wrong_side",
        "kshot_ext/ops/window.py",
        "for side in (t // 2, t - t // 2)]",
        "for side in (t - t // 2, t // 2)]",
        CONV,
        "Even kernels are moved by a pixel.",
    ),
    Mutant(
        "kernel_as_large_as_the_image_refused",
        "kshot_ext/ops/window.py",
        "if reach > padded:",
        "if reach >= padded:",
        ("tests/fuzz/test_corpus.py",),
        "A kernel that just fits is refused.",
    ),
    Mutant(
        "gate_of_active_channels_refused",
        "kshot_ext/ops/checks.py",
        "if gate.shape[-1] not in (total, active):",
        "if gate.shape[-1] not in (total,):",
        CONV,
        "A gate of the channels in use is refused.",
    ),
    Mutant(
        "update_not_seen_by_autograd",
        "kshot_ext/ops/sgd_update.py",
        "torch.autograd.graph.increment_version([*weights, *momentum_buffers])",
        "pass",
        ("tests/ops/test_sgd_update.py",),
        "A backward pass over values that an update has changed goes unnoticed.",
    ),
    Mutant(
        "plan_of_other_settings",
        "kshot_ext/ops/kshot_conv.py",
        'f"{stride!r} {padding!r} {dilation!r} {groups!r} {out_channels!r} {algorithm!r}"',
        'f"{stride!r} {padding!r} {dilation!r} {groups!r} {algorithm!r}"',
        ("tests/ops/test_conv_plans.py",),
        "A call with fewer output channels finds the plan of the whole width.",
    ),
    Mutant(
        "plan_records_nothing",
        "kshot_ext/ops/conv_plans.py",
        "return operator.recorded if is_recorded(operands) else operator.unrecorded",
        "return operator.unrecorded",
        ("tests/ops/test_conv_plans.py",),
        "A planned call has no gradient.",
    ),
    Mutant(
        "plan_of_operands_that_are_cast",
        "kshot_ext/ops/conv_plans.py",
        "return all(operand is original for operand, original in zip(operands, given))",
        "return True",
        ("tests/ops/test_conv_plans.py",),
        "A plan hands on operands as they come, though its form cast or cut them.",
    ),
)
