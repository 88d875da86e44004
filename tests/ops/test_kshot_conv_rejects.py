"""What a K-shot convolution refuses, before it computes anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from calls import assert_rejects

from kshot_ext import functional as KF


def arguments(**changes: Any) -> dict[str, Any]:
    """Good arguments but for `changes`: 2 groups of 3 input and 2 output channels."""
    good = {
        "input": torch.zeros(2, 6, 5, 5),
        "weight": torch.zeros(3, 4, 3, 3, 3),
        "code": torch.tensor([0.5, 0.3, 0.2]),
        "bias": torch.zeros(3, 4),
        "groups": 2,
    }
    return {**good, **changes}


REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "input_no_tensor": ({"input": [1.0]}, TypeError, r"input must be a tensor \[N, C_in, H, W\], got list"),
    "input_rank": ({"input": torch.zeros(6, 5, 5)}, ValueError, r"input must have shape \[N, C_in, H, W\], got \[6, 5"),
    "input_integers": ({"input": torch.zeros(2, 6, 5, 5, dtype=torch.int64)}, TypeError, r"float32.*got torch.int64"),
    "weight_rank": ({"weight": torch.zeros(4, 3, 3, 3)}, ValueError, r"weight must have shape \[K, C_out.*got \[4, 3"),
    "weight_no_copy": ({"weight": torch.zeros(0, 4, 3, 3, 3)}, ValueError, r"at least one copy.*\[0, 4, 3, 3, 3\]"),
    "weight_dtype": ({"weight": torch.zeros(3, 4, 3, 3, 3).double()}, TypeError, r"weight must be .*32.*got .*64"),
    "weight_device": ({"weight": torch.zeros(3, 4, 3, 3, 3, device="meta")}, ValueError, "weight must be on cpu.*meta"),
    "code_no_tensor": ({"code": 0.5}, TypeError, r"code must be a tensor \[K\], \[N, K\] or, by place .*, got float"),
    "code_rank": (
        {"code": torch.zeros(1, 1, 3)},
        ValueError,
        r"code must have shape \[K\], \[N, K\] or, by place in the kernel, \[N, K, 3, 3\], got \[1, 1, 3\]",
    ),
    "code_shots": ({"code": torch.zeros(4)}, ValueError, r"code must have K = 3 entries.*got shape \[4\]"),
    "code_batch": ({"code": torch.zeros(5, 3)}, ValueError, "N = 2 rows like input, got 5"),
    "code_device": ({"code": torch.zeros(3, device="meta")}, ValueError, "code must be on cpu like weight, got meta"),
    "code_integers": ({"code": torch.ones(3, dtype=torch.int32)}, TypeError, "code must be one of.*got torch.int32"),
    "bias_rank": ({"bias": torch.zeros(1, 3, 4)}, ValueError, r"bias must have shape \[C_out\] or \[K, C_out\]"),
    "bias_size": ({"bias": torch.zeros(3)}, ValueError, r"bias must have shape \[4\].*got \[3\]"),
    "bias_shots": ({"bias": torch.zeros(2, 4)}, ValueError, r"bias must have shape \[3, 4\].*got \[2, 4\]"),
    "bias_device": ({"bias": torch.zeros(4, device="meta")}, ValueError, "bias must be on cpu like weight, got meta"),
    "bias_dtype": ({"bias": torch.zeros(4).half()}, TypeError, "bias must be torch.float32 .*got torch.float16"),
    "gate_rank": ({"gate": torch.zeros(1, 2, 4)}, ValueError, r"gate must have shape \[C_out\] or \[N, C_out\]"),
    "gate_size": ({"gate": torch.zeros(3)}, ValueError, r"gate must have C_out = 4 entries, got shape \[3\]"),
    "gate_size_narrow": (
        {"gate": torch.zeros(3), "out_channels": 2},
        ValueError,
        r"C_out = 4 \(all\) or 2 \(the active ones\) entries, got shape \[3\]",
    ),
    "gate_batch": ({"gate": torch.zeros(5, 4)}, ValueError, "gate per sample must have N = 2 rows like input, got 5"),
    "gate_device": ({"gate": torch.zeros(4, device="meta")}, ValueError, "gate must be on cpu like weight, got meta"),
    "groups_zero": ({"groups": 0}, ValueError, "groups must be a positive divisor of the weight's C_out = 4, got 0"),
    "groups_no_divisor": ({"groups": 3}, ValueError, "groups must be a positive divisor.*got 3"),
    "input_too_wide": ({"input": torch.zeros(2, 7, 5, 5)}, ValueError, "input has 7 channels, expected 1 to 6"),
    "input_no_channel": ({"input": torch.zeros(2, 0, 5, 5)}, ValueError, "input has 0 channels, expected 1 to 6"),
    "input_splits_group": ({"input": torch.zeros(2, 4, 5, 5)}, ValueError, "4 channels, expected a multiple of 3"),
    "output_too_wide": ({"out_channels": 5}, ValueError, "out_channels must be 1 to 4.*got 5"),
    "output_no_channel": ({"out_channels": 0}, ValueError, "out_channels must be 1 to 4.*got 0"),
    "output_splits_group": ({"out_channels": 3}, ValueError, "out_channels must be a multiple of 2, got 3"),
    "output_beyond_input": (
        {"input": torch.zeros(2, 3, 5, 5), "out_channels": 4},
        ValueError,
        "out_channels must be at most 2, got 4",
    ),
    "stride_zero": ({"stride": 0}, ValueError, "stride must be an int >= 1 or 2 of them, got 0"),
    "stride_count": ({"stride": (1, 1, 1)}, ValueError, r"stride must be an int >= 1 or 2 of them, got \(1, 1, 1\)"),
    "dilation_float": ({"dilation": 1.5}, ValueError, "dilation must be an int >= 1 or 2 of them, got 1.5"),
    "padding_negative": ({"padding": -1}, ValueError, "padding must be an int >= 0 or 2 of them, got -1"),
    "padding_word": ({"padding": "full"}, ValueError, "padding must be ints, 'same' or 'valid', got 'full'"),
    "padding_same_stride": (
        {"padding": "same", "stride": 2},
        ValueError,
        "padding='same' needs stride 1, got stride .*2",
    ),
    "algorithm": ({"algorithm": "fast"}, ValueError, "algorithm must be one of 'auto', .*, got 'fast'"),
    "algorithm_without_kernel": ({"algorithm": "fused"}, ValueError, "'fused' has no kernel.*groups=2 on cpu"),
    "kernel_beyond_input": (
        {"input": torch.zeros(2, 6, 2, 5)},
        ValueError,
        r"kernel must fit into the padded input: it reaches over 3 positions of dimension 2, the padded .* has 2",
    ),
    "kernel_dilated_beyond_input": (
        {"dilation": (1, 3), "padding": (0, 0)},
        ValueError,
        "it reaches over 7 positions of dimension 3, the padded .* has 5",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.kshot_conv2d, arguments(**changes), error, message)


@pytest.mark.parametrize(
    ("operator", "rank", "layout"),
    [(KF.kshot_conv1d, 3, r"\[N, C_in, L\]"), (KF.kshot_conv3d, 5, r"\[N, C_in, D, H, W\]")],
)
def test_rejects_wrong_rank_in_other_dimensions(operator: Callable[..., Any], rank: int, layout: str) -> None:
    assert_rejects(operator, arguments(), ValueError, rf"input must have shape {layout}, got \[2, 6, 5, 5\]")
    assert_rejects(operator, arguments(input=torch.zeros([2] * rank)), ValueError, "weight must have shape")
