"""Batch norm whose affine parameters may be K-shot dictionaries, with a residual and an activation."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.effective_weight import mix
from kshot_ext.reference.batch_norm_act import ACTIVATIONS


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

    Statistics are those of the batch when `training` (or when there are no running ones), else the running ones;
    training moves the leading C' running statistics, in place, by `momentum` (variance unbiased, as torch does).

    Args:
        input: `[N, C', ...]`; its channel count is the width: leading parts of all parameters are used.
        weight, bias: `[C]`, or dictionaries `[K, C]` mixed by `code`; None for one and zero. They may be kept in
            float32 beside a half precision input.
        running_mean, running_var: `[C]`; both or neither.
        code: `[K]` or `[N, K]`; needed for dictionaries.
        training: use and record batch statistics; default True.
        momentum: weight of the new statistics in the running ones.
        eps: added to the variance.
        activation: "identity", "relu", "relu6", "silu" or "hardswish".
        residual: `[N, C', ...]`, added before the activation; default: none.

    Returns:
        `[N, C', ...]` in the dtype and memory format of the input.

    Gradients:
        To `input`, `weight`, `bias`, `code` and `residual`.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size or device, naming the argument; and in training if
            a channel has a single value.

    Example:
        >>> import torch
        >>> mean, var = torch.tensor([1.0]), torch.tensor([4.0])
        >>> batch_norm_act(torch.tensor([[-3.0], [5.0]]), None, None, mean, var, training=False, eps=0.0)
        tensor([[0.],
                [2.]])

    Papers: batch norm, arXiv 1502.03167; K copies of its affine parameters, arXiv 2106.06442.
    """
    check_batch_norm_arguments(input, weight, bias, running_mean, running_var, code, activation, residual)
    training = training or running_mean is None
    if training and 0 < input.numel() <= input.shape[1]:
        raise ValueError(f"expected more than one value per channel in training, got input {list(input.shape)}")
    if not backend.native():
        return reference.batch_norm_act(
            input, weight, bias, running_mean, running_var, code=code, training=training, momentum=momentum,
            eps=eps, activation=activation, residual=residual,
        )  # fmt: skip
    channels = input.shape[1]
    weight = _active_affine(weight, code, channels)
    bias = _active_affine(bias, code, channels)
    mean = None if running_mean is None else running_mean[:channels]
    var = None if running_var is None else running_var[:channels]
    if any(affine is not None and affine.dim() == 2 for affine in (weight, bias)):
        output = F.batch_norm(input, mean, var, None, None, training, momentum, eps)
        if weight is not None:
            output = output * _per_channel(weight, input)
        if bias is not None:
            output = output + _per_channel(bias, input)
    else:
        output = F.batch_norm(input, mean, var, weight, bias, training, momentum, eps)
    if residual is not None:
        output = output + residual
    return ACTIVATIONS[activation](output).to(input.dtype)


def check_batch_norm_arguments(input, weight, bias, running_mean, running_var, code, activation, residual) -> None:
    checks.check_tensor("input", input, "[N, C, ...]", range(2, 6))
    channels = input.shape[1]
    for name, affine in (("weight", weight), ("bias", bias)):
        if affine is None:
            continue
        checks.check_tensor(name, affine, "[C] or [K, C]", (1, 2))
        _check_channels(name, affine, channels)
        checks.check_companion(name, affine, "input", input)
        if affine.dim() == 2 and code is None:
            raise ValueError(f"code must be given: {name} is a dictionary {list(affine.shape)}")
        if affine.dim() == 2:
            checks.check_code(code, affine, input.shape[0])
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given both or neither")
    for name, running in (("running_mean", running_mean), ("running_var", running_var)):
        if running is not None:
            checks.check_tensor(name, running, "[C]", (1,))
            _check_channels(name, running, channels)
            checks.check_companion(name, running, "input", input)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if residual is not None:
        checks.check_tensor("residual", residual, "like input", (input.dim(),))
        if residual.shape != input.shape:
            raise ValueError(f"residual must have shape {list(input.shape)} like input, got {list(residual.shape)}")
        checks.check_companion("residual", residual, "input", input)


def _check_channels(name: str, tensor: Tensor, channels: int) -> None:
    if tensor.shape[-1] < channels:
        raise ValueError(f"{name} must cover the {channels} channels of input, got shape {list(tensor.shape)}")


def _active_affine(parameter: Tensor | None, code: Tensor | None, channels: int) -> Tensor | None:
    """Active part of an affine parameter, `[C']` or `[N, C']`, mixed if it is a dictionary."""
    if parameter is None:
        return None
    return mix(parameter, code, None, channels, None) if parameter.dim() == 2 else parameter[:channels]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View `[C']` or `[N, C']` so that it broadcasts over `x`, `[N, C', ...]`."""
    return values.reshape(*values.shape, *(1,) * (x.dim() - 2))
