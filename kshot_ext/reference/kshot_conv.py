"""K-shot convolution: mix the K weights, gate and slice the channels, convolve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.reference.effective_weight import effective_weight
from kshot_ext.widths import active_widths

Size = int | Sequence[int]


def kshot_conv1d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
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
    """Convolve in one dimension with a weight mixed from K copies.

        output[n, o] = gate[o] * (bias[o] + sum_i (sum_k code[k] * weight[k, o, i]) (*) input[n, i])

    where (*) is the cross-correlation of `torch.nn.functional.conv1d`.

    Args:
        input: `[N, C_in', L]`; its channel count C_in' is the input width.
        weight: dictionary `[K, C_out, C_in/groups, KL]`.
        code: `[K]`, `[N, K]` or `[N, K, KL]`.
        bias: `[C_out]`, or a dictionary `[K, C_out]`.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv1d`.
        gate: `[C_out]` or `[N, C_out]`.
        out_channels: output width C_out'.
        algorithm: without effect here.

    Returns:
        `[N, C_out', L']`.

    Example:
        >>> weight, code = torch.tensor([2.0, 4.0]).reshape(2, 1, 1, 1), torch.tensor([0.5, 0.5])
        >>> kshot_conv1d(torch.ones(1, 1, 1), weight, code, torch.ones(1)).flatten()
        tensor([4.])
    """
    return _kshot_conv(F.conv1d, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels)


def kshot_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
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
    """Convolve in two dimensions with a weight mixed from K copies.

        output[n, o] = gate[o] * (bias[o] + sum_i (sum_k code[k] * weight[k, o, i]) (*) input[n, i])

    where (*) is the cross-correlation of `torch.nn.functional.conv2d`.

    Args:
        input: `[N, C_in', H, W]`; its channel count C_in' is the input width.
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`.
        code: `[K]`, `[N, K]` or `[N, K, KH, KW]`.
        bias: `[C_out]`, or a dictionary `[K, C_out]`.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`.
        gate: `[C_out]` or `[N, C_out]`.
        out_channels: output width C_out'.
        algorithm: without effect here.

    Returns:
        `[N, C_out', H', W']`.

    Example:
        >>> weight, code = torch.tensor([2.0, 4.0]).reshape(2, 1, 1, 1, 1), torch.tensor([0.5, 0.5])
        >>> kshot_conv2d(torch.ones(1, 1, 1, 1), weight, code, torch.ones(1)).flatten()
        tensor([4.])
    """
    return _kshot_conv(F.conv2d, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels)


def kshot_conv3d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
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
    """Convolve in three dimensions with a weight mixed from K copies.

        output[n, o] = gate[o] * (bias[o] + sum_i (sum_k code[k] * weight[k, o, i]) (*) input[n, i])

    where (*) is the cross-correlation of `torch.nn.functional.conv3d`.

    Args:
        input: `[N, C_in', D, H, W]`; its channel count C_in' is the input width.
        weight: dictionary `[K, C_out, C_in/groups, KD, KH, KW]`.
        code: `[K]`, `[N, K]` or `[N, K, KD, KH, KW]`.
        bias: `[C_out]`, or a dictionary `[K, C_out]`.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv3d`.
        gate: `[C_out]` or `[N, C_out]`.
        out_channels: output width C_out'.
        algorithm: without effect here.

    Returns:
        `[N, C_out', D', H', W']`.

    Example:
        >>> weight, code = torch.tensor([2.0, 4.0]).reshape(2, 1, 1, 1, 1, 1), torch.tensor([0.5, 0.5])
        >>> kshot_conv3d(torch.ones(1, 1, 1, 1, 1), weight, code, torch.ones(1)).flatten()
        tensor([4.])
    """
    return _kshot_conv(F.conv3d, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels)


def _kshot_conv(convolve, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels):
    widths = active_widths(input.shape[1], (weight.shape[1], weight.shape[2]), groups, out_channels)
    input = input[:, : widths.in_channels]
    mixed_weight = effective_weight(
        weight, code, gate=gate, out_channels=widths.out_channels, in_channels=widths.weight_in_channels
    )
    mixed_bias = effective_bias(bias, code, gate, widths.out_channels)
    weight_per_sample = mixed_weight.dim() == weight.dim()
    bias_per_sample = mixed_bias is not None and mixed_bias.dim() == 2

    def one_sample(n: int) -> Tensor:
        weight_n = mixed_weight[n] if weight_per_sample else mixed_weight
        bias_n = mixed_bias[n] if bias_per_sample else mixed_bias
        return convolve(input[n : n + 1], weight_n, bias_n, stride, padding, dilation, widths.groups)

    if not weight_per_sample and not bias_per_sample:
        return convolve(input, mixed_weight, mixed_bias, stride, padding, dilation, widths.groups)
    if input.shape[0] == 0:  # no sample to loop over: any weight and bias give the empty output its shape
        bias_sum = mixed_bias.sum(0) if bias_per_sample else mixed_bias
        return convolve(input, mixed_weight.sum(0), bias_sum, stride, padding, dilation, widths.groups)
    return torch.cat([one_sample(n) for n in range(input.shape[0])])


def effective_bias(bias: Tensor | None, code: Tensor, gate: Tensor | None, out_channels: int) -> Tensor | None:
    """Bias of the active channels, `[C_out']` or `[N, C_out']`: mixed if it is a dictionary, and gated."""
    if bias is None:
        return None
    if bias.dim() == 2:
        return effective_weight(bias, code, gate=gate, out_channels=out_channels)
    active = bias[:out_channels]
    return active if gate is None else (gate[..., :out_channels] * active).to(bias.dtype)
