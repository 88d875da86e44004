"""What the raw operator refuses: whoever calls it beside the Python functions must not read beyond a tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

WINDOW = ([1, 1], [1, 1, 1, 1], [1, 1])  # stride, padding on four sides, dilation
DENSE, DEPTHWISE = (3, 4, 5, 3, 3), (3, 5, 1, 3, 3)


pytestmark = pytest.mark.usefixtures("native_backend")


def forward(
    code: Tensor,
    bias: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    out_channels: int | None = None,
    depthwise: bool = False,
) -> Tensor:
    images = torch.zeros(2, 5, 6, 6)
    weight = torch.zeros(DEPTHWISE if depthwise else DENSE) if weight is None else weight
    out_channels = weight.shape[1] if out_channels is None else out_channels
    return torch.ops.kshot_ext.mixed_conv2d(images, weight, code, None, bias, out_channels, *WINDOW, depthwise, False)


@pytest.mark.parametrize("depthwise", [False, True])
def test_biases_per_sample_take_codes_per_sample(depthwise: bool) -> None:
    channels = 5 if depthwise else 4
    forward(torch.ones(2, 3), torch.zeros(2, channels), depthwise=depthwise)
    with pytest.raises(RuntimeError, match=r"bias must be \[C_out'\] or, with a code per sample"):
        forward(torch.ones(3), torch.zeros(2, channels), depthwise=depthwise)


@pytest.mark.parametrize("depthwise", [False, True])
def test_short_biases_and_codes_are_refused(depthwise: bool) -> None:
    channels = 5 if depthwise else 4
    for bias in (torch.zeros(channels - 1), torch.zeros(1, channels), torch.zeros(2, channels - 1)):
        with pytest.raises(RuntimeError, match=r"bias must be .* N, C_out' = 2, " + str(channels)):
            forward(torch.ones(2, 3), bias, depthwise=depthwise)
    for code in (torch.ones(2), torch.ones(1, 3), torch.ones(2, 2), torch.ones(1, 1, 3), torch.ones(3).double()):
        with pytest.raises(RuntimeError, match=r"code must be .* N, K = 2, 3"):
            forward(code, depthwise=depthwise)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": torch.zeros(3, 4, 4, 3, 3)},
        {"weight": torch.zeros(4, 5, 3, 3)},
        {"out_channels": 5},
        {"weight": torch.zeros(3, 5, 2, 3, 3), "depthwise": True},
        {"out_channels": 4, "depthwise": True},
    ],
)
def test_dictionaries_that_do_not_cover_the_call_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"weight must be a dictionary .* that covers the active channels"):
        forward(torch.ones(3), **changes)


def test_gradients_of_another_shape_are_refused() -> None:
    images, weight, code = torch.zeros(2, 5, 6, 6), torch.zeros(DENSE), torch.ones(3)
    for grad in (torch.zeros(2, 4, 6, 5), torch.zeros(1, 4, 6, 6), torch.zeros(2, 4, 6, 6).double()):
        with pytest.raises(RuntimeError, match="the output's gradient must have its shape, dtype and device"):
            torch.ops.kshot_ext.mixed_conv2d_backward(
                grad, images, weight, code, None, *WINDOW, False, False, *[True] * 3, *[False] * 2
            )
