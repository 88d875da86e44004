"""Gated convolution: one plain weight whose output channels are gated and sliced."""

from __future__ import annotations

from torch import Tensor

from kshot_ext.ops import checks
from kshot_ext.ops.kshot_conv import Size, kshot_conv2d


def gated_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Convolve with the active channels of a plain weight, each output channel times its gate.

        output[n, o] = gate[o] * (bias[o] + sum_i weight[o, i] (*) input[n, i])

    The K-shot convolution with a single copy, whose code is one: arguments, widths, gradients and errors are
    those of `kshot_conv2d`.

    Args:
        input: `[N, C_in', H, W]`; its channel count is the input width.
        weight: `[C_out, C_in/groups, KH, KW]`.
        bias: `[C_out]`; default: none.
        gate: `[C_out]` or `[N, C_out]`, or just the active part of it; default: no gate.
        out_channels: output width; default: all that the input width allows.

    Returns:
        `[N, C_out', H', W']` in the memory format of the input.

    Example:
        >>> import torch
        >>> gate = torch.tensor([1.0, 0.5])
        >>> gated_conv2d(torch.ones(1, 3, 1, 1), torch.ones(2, 3, 1, 1), gate=gate).flatten()
        tensor([3.0000, 1.5000])

    Paper: leading channels as widths after slimmable networks, arXiv 1812.08928.
    """
    checks.check_tensor("weight", weight, "[C_out, C_in/groups, KH, KW]", (4,))
    if bias is not None:
        checks.check_tensor("bias", bias, "[C_out]", (1,))
    return kshot_conv2d(
        input,
        weight[None],
        weight.new_ones(1),
        bias,
        stride,
        padding,
        dilation,
        groups,
        gate=gate,
        out_channels=out_channels,
        algorithm=algorithm,
    )
