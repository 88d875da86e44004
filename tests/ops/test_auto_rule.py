"""The rule of `algorithm="auto"` on the CPU where a kernel of ours could serve, at its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kshot_ext.ops import auto_rule, conv_forms
from kshot_ext.ops.conv_forms import ConvCall
from kshot_ext.ops.kshot_conv import DIMENSIONS
from kshot_ext.ops.window import Window
from kshot_ext.widths import active_widths


def call(
    *, batch: int = 2, channels: tuple[int, int] = (16, 16), groups: int = 1, shots: int = 3, size: int = 40,
    kernel: int = 1, padding: int = 0, per_sample: bool = False, dtype: torch.dtype = torch.float32,
    channels_last: bool = True, by_place: bool = False,
) -> ConvCall:  # fmt: skip
    """A call of these sizes; nothing is computed."""
    inputs, outputs = channels
    form = torch.channels_last if channels_last else torch.contiguous_format
    image = torch.empty(batch, inputs, size, size, dtype=dtype).contiguous(memory_format=form)
    weight = torch.empty(shots, outputs, inputs // groups, kernel, kernel, dtype=dtype)
    code = torch.empty(*([batch] if per_sample else []), shots, *([kernel, kernel] if by_place else []))
    window = Window.of_arguments((kernel, kernel), 1, padding, 1)
    widths = active_widths(inputs, (outputs, inputs // groups), groups, None)
    return ConvCall(DIMENSIONS[2], image, weight, code, None, None, widths, window)


RULE = {
    "depthwise": ({"groups": 16, "kernel": 3}, True),
    "per_sample": ({"per_sample": True, "channels": (8, 16), "kernel": 3}, True),
    "per_sample_of_few_channels": ({"per_sample": True, "channels": (7, 16), "kernel": 3}, False),
    "per_sample_contiguous": ({"per_sample": True, "channels": (48, 48), "channels_last": False}, True),
    "per_sample_thin_contiguous": ({"per_sample": True, "channels": (48, 47), "channels_last": False}, False),
    "per_sample_contiguous_of_65536_numbers": (
        {"per_sample": True, "channels": (16, 16), "size": 32, "batch": 4, "channels_last": False},
        True,
    ),
    "per_sample_contiguous_of_69696_numbers": (
        {"per_sample": True, "channels": (16, 16), "size": 33, "batch": 4, "channels_last": False},
        False,
    ),
    "per_sample_3x3_contiguous": (
        {"per_sample": True, "channels": (64, 64), "kernel": 3, "channels_last": False},
        False,
    ),
    "by_place_3x3_contiguous": (
        {"per_sample": True, "by_place": True, "channels": (64, 64), "kernel": 3, "channels_last": False},
        True,
    ),
    "by_place_of_one_place_contiguous": (
        {"per_sample": True, "by_place": True, "channels": (48, 47), "channels_last": False},
        False,
    ),
    "per_sample_of_single_pixels": ({"per_sample": True, "channels": (8, 8), "size": 1, "channels_last": False}, True),
    "per_sample_depthwise": ({"per_sample": True, "groups": 16, "kernel": 3}, True),
    "per_sample_depthwise_contiguous": (
        {"per_sample": True, "groups": 16, "kernel": 3, "batch": 4, "channels_last": False},
        False,
    ),
    "per_sample_depthwise_5x5_contiguous": (
        {"per_sample": True, "groups": 16, "kernel": 5, "channels_last": False},
        True,
    ),
    "per_sample_depthwise_bfloat16_contiguous": (
        {"per_sample": True, "groups": 16, "kernel": 3, "channels_last": False, "dtype": torch.bfloat16},
        True,
    ),
    "per_sample_depthwise_large_contiguous": (
        {"per_sample": True, "groups": 16, "kernel": 3, "channels_last": False, "batch": 8, "size": 257},
        True,
    ),
    "pointwise": ({}, True),
    "pointwise_contiguous": ({"channels_last": False}, False),
    "pointwise_thin_of_16384_positions": ({"channels": (16, 15), "batch": 4, "size": 64}, True),
    "pointwise_thin_of_16900_positions": ({"channels": (16, 15), "batch": 4, "size": 65}, False),
    "pointwise_of_16900_positions": ({"channels": (16, 16), "batch": 4, "size": 65}, True),
    "pointwise_of_16_positions": ({"channels": (256, 513), "batch": 1, "size": 4}, False),
    "pointwise_of_25_positions": ({"channels": (256, 513), "batch": 1, "size": 5}, True),
    "pointwise_of_16_positions_and_a_smaller_weight": ({"channels": (256, 512), "batch": 1, "size": 4}, True),
    "pointwise_of_16_positions_to_fewer_channels": ({"channels": (513, 256), "batch": 1, "size": 4}, True),
    "dense": ({"kernel": 3}, False),
    "dense_of_1024_positions": ({"kernel": 3, "padding": 1, "batch": 1, "size": 32}, True),
    "dense_of_1089_positions": ({"kernel": 3, "padding": 1, "batch": 1, "size": 33}, False),
    "dense_contiguous_of_512_positions": (
        {"kernel": 3, "padding": 1, "batch": 2, "size": 16, "channels_last": False},
        True,
    ),
    "dense_contiguous_of_578_positions": (
        {"kernel": 3, "padding": 1, "batch": 2, "size": 17, "channels_last": False},
        False,
    ),
    "dense_of_4.7_million_products": ({"kernel": 3, "padding": 1, "channels": (32, 32), "size": 16}, True),
    "dense_of_5.3_million_products": ({"kernel": 3, "padding": 1, "channels": (32, 36), "size": 16}, False),
}


@pytest.mark.parametrize(("sizes", "fused"), RULE.values(), ids=RULE)
def test_the_rule(sizes: dict[str, Any], fused: bool) -> None:
    assert auto_rule.prefers_fused(call(**sizes)) == fused


@pytest.mark.parametrize(
    ("sizes", "stacked"),
    [
        ({}, True), ({"padding": 1}, False), ({"groups": 4}, False), ({"size": 2}, False),
        ({"per_sample": False}, False), ({"dtype": torch.bfloat16}, False),
    ],
)  # fmt: skip
def test_single_pixels_are_linear_maps(sizes: dict[str, Any], stacked: bool) -> None:
    assert conv_forms.stacks_copies(call(**{"per_sample": True, "size": 1, **sizes})) == stacked


@pytest.mark.parametrize(
    ("options", "gate", "mixed"),
    [
        ({}, (16,), True),
        ({}, (2, 16), False),
        ({"per_sample": True}, (16,), False),
        ({"groups": 16, "kernel": 3}, (2, 16), True),
        ({"groups": 16, "kernel": 3, "per_sample": True, "by_place": True}, (2, 16), True),
    ],
)
def test_gates_are_mixed_into_weights_that_are_small_beside_the_output(options: dict, gate: tuple, mixed: bool) -> None:
    assert conv_forms.takes_gate(call(**options)._replace(gate=torch.empty(gate))) == mixed
