"""Dynamic grouping: an effective weight, and a convolution with it, whose groups are given by gates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.reference.effective_weight import effective_weight
from kshot_ext.reference.kshot_conv import effective_bias

Size = int | Sequence[int]


def group_relation(group_gates: Tensor, out_channels: int, in_channels: int) -> Tensor:
    """The Kronecker product of one 2x2 matrix per gate and a matrix of ones: `[out_channels, in_channels]`."""
    identity, ones = torch.eye(2).to(group_gates), torch.ones(2, 2).to(group_gates)
    relation = group_gates.new_ones(1, 1)
    for gate in group_gates.unbind():
        relation = torch.kron(relation, identity + gate * (ones - identity))
    blocks = relation.shape[0]
    return torch.kron(relation, group_gates.new_ones(out_channels // blocks, in_channels // blocks))


def dynamic_group_weight(
    weight: Tensor,
    code: Tensor,
    group_gates: Tensor,
) -> Tensor:
    """Mix K weights, and leave out the connections that gates do not open.

        relation = U_1 x ... x U_n x ones(C_out / 2^n, C_in / 2^n),    U_j = I + gate_j (ones(2, 2) - I)
        effective[o, i] = relation[o, i] * sum_k code[k] * weight[k, o, i]

    where x is the Kronecker product.

    Args:
        weight: dictionary `[K, C_out, C_in, *kernel]`.
        code: `[K]` or `[N, K]`.
        group_gates: `[n]`.

    Returns:
        `[C_out, C_in, *kernel]` or `[N, C_out, C_in, *kernel]`.

    Example:
        >>> dynamic_group_weight(torch.ones(1, 2, 2), torch.ones(1), torch.tensor([0.5]))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    sum_dtype = torch.promote_types(weight.dtype, torch.float32)
    relation = group_relation(group_gates.to(sum_dtype), *weight.shape[1:3])
    relation = relation.reshape(*relation.shape, *(1,) * (weight.dim() - 3))
    masked = relation * effective_weight(weight.to(sum_dtype), code)
    # A connection that is left out is zero, whatever number its weight is.
    return masked.masked_fill((relation == 0) & ~masked.isfinite(), 0).to(weight.dtype)


def dynamic_group_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    group_gates: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
) -> Tensor:
    """Convolve with a weight mixed from K copies, whose groups are given by gates.

        output[n, o] = bias[o] + sum_i relation[o, i] * (sum_k code[k] * weight[k, o, i]) (*) input[n, i]

    where relation is that of `dynamic_group_weight`.

    Args:
        input: `[N, C_in, H, W]`.
        weight: dictionary `[K, C_out, C_in, KH, KW]`.
        code: `[K]` or `[N, K]`.
        group_gates: `[n]`.
        bias: `[C_out]`, or a dictionary `[K, C_out]`.
        stride, padding, dilation: as in `torch.nn.functional.conv2d`.

    Returns:
        `[N, C_out, H', W']`.

    Example:
        >>> weight, code = torch.ones(1, 2, 2, 1, 1), torch.ones(1)
        >>> dynamic_group_conv2d(torch.ones(1, 2, 1, 1), weight, code, torch.tensor([0.5])).flatten()
        tensor([1.5000, 1.5000])
    """
    mixed_weight = dynamic_group_weight(weight, code, group_gates)
    mixed_bias = effective_bias(bias, code, None, weight.shape[1])
    if code.dim() == 1:
        return F.conv2d(input, mixed_weight, mixed_bias, stride, padding, dilation)
    if input.shape[0] == 0:  # no sample to loop over: any weight and bias give the empty output its shape
        bias_sum = mixed_bias if mixed_bias is None or mixed_bias.dim() == 1 else mixed_bias.sum(0)
        return F.conv2d(input, mixed_weight.sum(0), bias_sum, stride, padding, dilation)
    biases = [mixed_bias if mixed_bias is None or mixed_bias.dim() == 1 else mixed_bias[n] for n in range(len(input))]
    samples = zip(input.split(1), mixed_weight, biases)
    return torch.cat([F.conv2d(x, w, b, stride, padding, dilation) for x, w, b in samples])
