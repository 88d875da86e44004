"""Batch norm with K-mixed affine parameters, an optional residual, and an activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.reference.effective_weight import effective_weight

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}


def batch_norm_act(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    code: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    residual: Tensor | None = None,
) -> Tensor:
    """Normalise each channel, apply the mixed affine parameters, add a residual, activate.

        output = activation((input - mean) / sqrt(var + eps) * weight + bias + residual)

    Statistics are those of the batch in training, or without running ones; else the running ones.

    Args:
        input: `[N, C', ...]`.
        weight, bias: `[C]`, dictionaries `[K, C]`, or None for one and zero.
        running_mean, running_var: `[C]`; moved in place in training.
        code: `[K]` or `[N, K]`; for dictionaries.
        training: whether statistics are the batch's.
        momentum: weight of the new statistics in the running ones.
        eps: added to the variance.
        activation: one of `ACTIVATIONS`.
        residual: `[N, C', ...]`.

    Returns:
        `[N, C', ...]`.

    Example:
        >>> mean, var = torch.tensor([1.0]), torch.tensor([4.0])
        >>> batch_norm_act(torch.tensor([[-3.0], [5.0]]), None, None, mean, var, training=False, eps=0.0)
        tensor([[0.],
                [2.]])
    """
    channels = input.shape[1]
    sum_dtype = torch.promote_types(input.dtype, torch.float32)
    x = input.to(sum_dtype)
    if training or running_mean is None or running_var is None:
        over = [d for d in range(x.dim()) if d != 1]
        mean, var = x.mean(over), x.var(over, correction=0)
        if running_mean is not None and running_var is not None:
            _record(x, running_mean[:channels], running_var[:channels], momentum)
    else:
        mean, var = running_mean[:channels].to(sum_dtype), running_var[:channels].to(sum_dtype)

    normalised = (x - _per_channel(mean, x)) / torch.sqrt(_per_channel(var, x) + eps)
    if weight is not None:
        normalised = normalised * _per_channel(_affine(weight, code, channels, sum_dtype), x)
    if bias is not None:
        normalised = normalised + _per_channel(_affine(bias, code, channels, sum_dtype), x)
    if residual is not None:
        normalised = normalised + residual.to(sum_dtype)
    return ACTIVATIONS[activation](normalised).to(input.dtype)


def _record(x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float) -> None:
    """Move the running statistics towards those of the batch (variance unbiased).

    torch's own operator does it, and its output is dropped: `lerp_` would be refused under `torch.func.grad`, and would
    say little under `torch.func.vmap`, where the statistics must be batched if the input is.
    """
    with torch.no_grad():
        F.batch_norm(x.to(running_mean.dtype), running_mean, running_var, training=True, momentum=momentum)


def _affine(parameter: Tensor, code: Tensor | None, channels: int, dtype: torch.dtype) -> Tensor:
    """Active part of an affine parameter, `[C']` or `[N, C']`, mixed if it is a dictionary."""
    if parameter.dim() == 2:
        assert code is not None, "a dictionary comes with a code"
        return effective_weight(parameter.to(dtype), code, out_channels=channels)
    return parameter[:channels].to(dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View `[C']` or `[N, C']` so that it broadcasts over `x`, `[N, C', ...]`."""
    return values.reshape(*values.shape, *(1,) * (x.dim() - 2))
