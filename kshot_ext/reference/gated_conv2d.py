"""Gated convolution: the K-shot convolution with a single copy, whose code is one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kshot_ext.reference.kshot_conv import kshot_conv2d


def gated_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Convolve with a plain weight, gate and slice the channels.

        output[n, o] = gate[o] * (bias[o] + sum_i weight[o, i] (*) input[n, i])

    Args:
        input: `[N, C_in', H, W]`; its channel count C_in' is the input width.
        weight: `[C_out, C_in/groups, KH, KW]`.
        bias: `[C_out]`.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`.
        gate: `[C_out]` or `[N, C_out]`.
        out_channels: output width C_out'.
        algorithm: without effect here.

    Returns:
        `[N, C_out', H', W']`.

    Example:
        >>> gate = torch.tensor([2.0, 0.0])
        >>> gated_conv2d(torch.ones(1, 1, 1, 1), torch.ones(2, 1, 1, 1), gate=gate).flatten()
        tensor([2., 0.])
    """
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
