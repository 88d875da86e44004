"""Gated convolution: the K-shot convolution with a single copy, whose code is one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kshot_ext.reference.kshot_conv import kshot_conv2d


def gated_conv2d(
    input: Tensor,  # [N, C_in', H, W]
    weight: Tensor,  # [C_out, C_in/groups, KH, KW]
    bias: Tensor | None = None,  # [C_out]
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    gate: Tensor | None = None,  # [C_out] or [N, C_out]
    out_channels: int | None = None,
    algorithm: str = "auto",
) -> Tensor:  # [N, C_out', H', W']
    one = weight.new_ones(1)
    return kshot_conv2d(
        input,
        weight[None],
        one,
        bias,
        stride,
        padding,
        dilation,
        groups,
        gate=gate,
        out_channels=out_channels,
    )
