"""Links of a chain of convolutions, norms and activations: the plain sequence of layers.

Sums, and what is normalised, are in float32 for half types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_ext.reference.batch_norm_act import batch_norm_act
from kshot_ext.reference.kshot_conv import kshot_conv2d

Size = int | Sequence[int]


class ChannelNorm(NamedTuple):
    """A norm that waits to be applied, and the activation after it.

        activation((raw - mean) / sqrt(variance + eps) * weight + bias)

    Attributes:
        mean, variance: `[C]`: moments of a raw output, through which gradients go back to it, or running statistics.
        weight, bias: `[C]`, or `[N, C]` for one row per sample; None for one and zero.
        eps: added to the variance.
        activation: "identity", "relu", "relu6", "silu" or "hardswish".

    Example:
        >>> ChannelNorm(torch.zeros(8), torch.ones(8), activation="relu").activation
        'relu'
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    activation: str = "identity"


class RawOutput(NamedTuple):
    """What a link of a chain gives: the raw output and its moments, `[C]` each, None where not asked for.

    Example:
        >>> weight, code = torch.ones(2, 3, 1, 1, 1), torch.tensor([0.5, 0.5])
        >>> output = chained_conv2d(torch.ones(1, 1, 2, 2), weight, code)
        >>> output.mean, output.variance
        (tensor([1., 1., 1.]), tensor([0., 0., 0.]))
    """

    raw: Tensor
    mean: Tensor | None
    variance: Tensor | None


def chained_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    norm: ChannelNorm | None = None,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    moments: bool = True,
) -> RawOutput:
    """One link of a chain: normalise and activate the input, convolve, tell the moments of the output.

        z = norm.activation((input - norm.mean) / sqrt(norm.variance + norm.eps) * norm.weight + norm.bias)
        raw[n, o] = gate[o] * sum_i (sum_k code[k] * weight[k, o, i]) (*) z[n, i]
        mean[o], variance[o] = moments of raw[:, o], the variance biased

    Args:
        input: `[N, C_in', H, W]`.
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`.
        code: `[K]` or `[N, K]`.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`.
        norm: of the input; default: none, z is the input.
        gate: `[C_out]`.
        out_channels: output width C_out'.
        moments: whether they are asked for.

    Returns:
        `RawOutput(raw, mean, variance)`: `[N, C_out', H', W']`, and `[C_out']` in the dtype of sums or None.

    Example:
        >>> weight, code = torch.ones(2, 1, 1, 1, 1), torch.tensor([0.5, 0.5])
        >>> norm = ChannelNorm(torch.tensor([1.0]), torch.tensor([4.0]), eps=0.0, activation="relu")
        >>> chained_conv2d(torch.tensor([-3.0, 5.0]).reshape(2, 1, 1, 1), weight, code, norm=norm).raw.flatten()
        tensor([0., 2.])
    """
    sum_dtype = torch.promote_types(input.dtype, torch.float32)
    z = input.to(sum_dtype) if norm is None else _normalised(input.to(sum_dtype), norm, None)
    raw = kshot_conv2d(
        z, weight.to(sum_dtype), code, None, stride, padding, dilation, groups, gate=gate, out_channels=out_channels
    )
    mean, variance = moments_of(raw) if moments else (None, None)
    return RawOutput(raw.to(input.dtype), mean, variance)


def chained_norm_act(input: Tensor, norm: ChannelNorm, residual: Tensor | None = None) -> Tensor:
    """Apply a norm that waits, add a residual, activate: the end of a chain.

        output = activation((input - mean) / sqrt(variance + eps) * weight + bias + residual)

    Args:
        input: `[N, C, H, W]`, the raw output of a link.
        norm: with its mean, variance, weight, bias, eps and activation.
        residual: `[N, C, H, W]`.

    Returns:
        `[N, C, H, W]`.

    Example:
        >>> norm = ChannelNorm(torch.tensor([1.0]), torch.tensor([4.0]), eps=0.0)
        >>> chained_norm_act(torch.tensor([-3.0, 5.0]).reshape(2, 1, 1, 1), norm).flatten()
        tensor([-2.,  2.])
    """
    sum_dtype = torch.promote_types(input.dtype, torch.float32)
    residual = None if residual is None else residual.to(sum_dtype)
    return _normalised(input.to(sum_dtype), norm, residual).to(input.dtype)


def folded_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    norm: ChannelNorm,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    out_channels: int | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Convolve, normalise by known moments, add a residual, activate.

        raw[n, o] = sum_i (sum_k code[k] * weight[k, o, i]) (*) input[n, i]
        output = norm.activation((raw - norm.mean) / sqrt(norm.variance + eps) * norm.weight + norm.bias + residual)

    Args:
        input: `[N, C_in', H, W]`.
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`.
        code: `[K]` or `[N, K]`.
        norm: of the output; its tensors are `[C_out']`.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`.
        out_channels: output width C_out'.
        residual: `[N, C_out', H', W']`.

    Returns:
        `[N, C_out', H', W']`.

    Example:
        >>> weight, code = torch.ones(2, 1, 1, 1, 1), torch.tensor([0.5, 0.5])
        >>> norm = ChannelNorm(torch.tensor([1.0]), torch.tensor([4.0]), eps=0.0)
        >>> folded_conv2d(torch.tensor([-3.0, 5.0]).reshape(2, 1, 1, 1), weight, code, norm).flatten()
        tensor([-2.,  2.])
    """
    raw = chained_conv2d(
        input.to(torch.promote_types(input.dtype, torch.float32)), weight, code, stride, padding, dilation, groups,
        out_channels=out_channels, moments=False,
    ).raw  # fmt: skip
    return chained_norm_act(raw, norm, residual).to(input.dtype)


def moments_of(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in the dtype of sums."""
    x = raw.to(torch.promote_types(raw.dtype, torch.float32))
    over = [d for d in range(x.dim()) if d != 1]
    return x.mean(over), x.var(over, correction=0)


def _normalised(x: Tensor, norm: ChannelNorm, residual: Tensor | None) -> Tensor:
    """`x` is in the dtype of sums, as are the parameters here; `[N, C]` is what one copy per sample mixes to."""
    mean, variance, weight, bias = (t if t is None else t.to(x.dtype) for t in norm[:4])
    rows = [p for p in (weight, bias) if p is not None and p.dim() == 2]
    code = torch.eye(x.shape[0], dtype=x.dtype, device=x.device) if rows else None
    return batch_norm_act(
        x, weight, bias, mean, variance, code=code, training=False, eps=norm.eps, activation=norm.activation,
        residual=residual,
    )  # fmt: skip
