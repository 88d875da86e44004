"""K-shot convolution: mix the K weights, gate and slice the channels, convolve.

    output[n, o] = gate[o] * (bias[o] + sum_i sum_k code[k] * weight[k, o, i] (*) input[n, i])

where (*) is the cross-correlation of `torch.nn.functional.conv2d`.
"""

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
