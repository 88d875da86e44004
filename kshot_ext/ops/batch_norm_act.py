"""Batch norm whose affine parameters may be K-shot dictionaries, with a residual and an activation."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.effective_weight import leading, mix
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.memory_order import has_channels_innermost
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
    if backend.kernels_for(input.device) is None:
        return reference.batch_norm_act(
            input, weight, bias, running_mean, running_var, code=code, training=training, momentum=momentum,
            eps=eps, activation=activation, residual=residual,
        )  # fmt: skip
    channels, dtype = input.shape[1], input.dtype
    if residual is not None and residual.dtype != dtype:  # a half type must not round the residual, or be rounded to it
        sum_dtype = torch.promote_types(dtype, torch.float32)
        input, residual = input.to(sum_dtype), residual.to(sum_dtype)
    weight = active_affine(weight, code, input.shape[1], input.dtype)
    bias = active_affine(bias, code, input.shape[1], input.dtype)
    mean = None if running_mean is None else leading(running_mean, channels)
    var = None if running_var is None else leading(running_var, channels)
    arguments = weight, bias, mean, var, training, momentum, eps, activation
    # [N, C, ...] as [N, C, H, W], whose memory format says which form reads it in order.
    image = _as_image(input)
    channels_last = has_channels_innermost(image)
    if not channels_last:
        if _vendor_rounds_once(input, weight, bias, mean, var):
            return _vendor_form(input, *arguments, residual).to(dtype)
    output = _like(_native_form(image, *arguments, _like(residual, image)), input).to(dtype)
    return output if channels_last or output.is_contiguous() else output.contiguous()


def _like(x: Tensor | None, shaped: Tensor) -> Tensor | None:
    """`x`, if there is one, in the shape of `shaped`; they differ at most in rank."""
    return x if x is None or x.dim() == shaped.dim() else x.reshape(shaped.shape)


def _vendor_rounds_once(input: Tensor, *others: Tensor | None) -> bool:
    """Whether torch's batch norm, and the operations after it, work in the dtype of our sums.

    They would round half types after every step, and take no parameters and statistics of other dtypes.
    """
    full = input.dtype in (torch.float32, torch.float64)
    return full and all(other is None or other.dtype == input.dtype for other in others)


def _as_image(x: Tensor) -> Tensor:
    """`[N, C, ...]` as `[N, C, H, W]`."""
    if x.dim() == 4:
        return x
    if x.dim() > 4:
        return x.flatten(2, 3)
    return x[(..., *(None,) * (4 - x.dim()))]


def _native_form(image, weight, bias, mean, var, training, momentum, eps, activation, residual) -> Tensor:
    """Our kernels: normalisation, residual and activation in one pass over each tensor.

    The output is channels_last; of an image that is not, they make a copy that is.
    """
    fixed = (None, None) if training else (mean, var)
    index = list(ACTIVATIONS).index(activation)
    output, batch_mean, batch_var = _operator.call(image, weight, bias, residual, *fixed, eps, index)
    count = image.numel() // image.shape[1]
    if training and mean is not None:
        record_moments(mean, var, batch_mean, batch_var, count, momentum)
    return output


@torch.no_grad()
def record_moments(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, variance: Tensor, count: int, momentum: float
) -> None:
    """Move running statistics, in place, towards moments of `count` values a channel, the variance biased."""
    if count > 0:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)


def _vendor_form(input, weight, bias, mean, var, training, momentum, eps, activation, residual) -> Tensor:
    """torch's batch norm, for memory formats in which it has the channel outermost."""
    if any(affine is not None and affine.dim() == 2 for affine in (weight, bias)):
        output = _vendor_batch_norm(input, None, None, mean, var, training, momentum, eps)
        if weight is not None:
            output = output * _per_channel(weight, input)
        if bias is not None:
            output = output + _per_channel(bias, input)
    else:
        output = _vendor_batch_norm(input, weight, bias, mean, var, training, momentum, eps)
    if residual is not None:
        output = output + residual
    if activation == "identity":
        return output
    return ACTIVATIONS[activation](output, inplace=True)  # nobody else has this tensor


def _vendor_batch_norm(input, weight, bias, mean, var, training, momentum, eps) -> Tensor:
    """`torch.nn.functional.batch_norm` without its own checks, which in torch 2.11 refuse `eps` = 0.

    In training its gradient reads no running statistics. It keeps them all the same, and would take offence if another
    call of the layer, in another memory format, moved them before the backward pass; so it gets them without their
    version.
    """
    if training and mean is not None:
        mean, var = mean.data, var.data
    return torch.batch_norm(input, weight, bias, mean, var, training, momentum, eps, torch.backends.cudnn.enabled)


def check_batch_norm_arguments(input, weight, bias, running_mean, running_var, code, activation, residual) -> None:
    checks.check_tensor("input", input, "[N, C, ...]", range(2, 6))
    channels = input.shape[1]
    if channels < 1:
        raise ValueError(f"input must have at least one channel, got shape {list(input.shape)}")
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


def active_affine(parameter: Tensor | None, code: Tensor | None, channels: int, dtype: torch.dtype) -> Tensor | None:
    """Active part of an affine parameter, `[C']` or `[N, C']`; dictionaries are mixed, in the sum type of `dtype`."""
    if parameter is None:
        return None
    if parameter.dim() == 1:
        return leading(parameter, channels)
    return mix(parameter.to(torch.promote_types(dtype, torch.float32)), code, None, channels, None)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View `[C']` or `[N, C']` so that it broadcasts over `x`, `[N, C', ...]`."""
    return values.reshape(*values.shape, *(1,) * (x.dim() - 2))


def _fake(input, weight, bias, residual, mean, variance, eps, activation):
    sum_dtype = torch.promote_types(input.dtype, torch.float32)
    statistics = input.new_empty(input.shape[1] if mean is None else 0, dtype=sum_dtype)
    output = torch.empty_like(input, memory_format=torch.channels_last)
    return output, statistics, torch.empty_like(statistics)


_IDENTITY = list(ACTIVATIONS).index("identity")


def _forward(ctx, *inputs, output=None) -> tuple[Tensor, Tensor, Tensor]:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.batch_norm_act(*inputs)
    input, weight, bias, residual, mean, variance, ctx.eps, ctx.activation = inputs
    ctx.training = mean is None
    if ctx.training:
        _, mean, variance = output
    if ctx.activation == _IDENTITY:  # its slope is one wherever it is taken, whatever was added
        residual = None
    ctx.save_for_backward(input, weight, bias, residual, mean, variance)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    return output


def _backward(ctx, grad, *_):
    if grad is None:  # nothing that was made of the output has a gradient
        return (None,) * 8
    input, weight, bias, residual, mean, variance = ctx.saved_tensors
    need_input, need_weight, need_bias, need_residual = ctx.needs_input_grad[:4]
    linear = ctx.activation == _IDENTITY
    grad_input, sums, grad_residual = _backward_operator(
        grad, input, weight, bias, residual, mean, variance, ctx.eps, ctx.activation, ctx.training,
        need_residual and not linear,
    )  # fmt: skip
    if linear:
        grad_residual = grad
    grad_bias, grad_weight = sums.view(sums.shape[0], 2, input.shape[1]).unbind(1)  # each [1, C] or [N, C]
    return (
        grad_input if need_input else None,
        _summed_like(grad_weight, weight) if need_weight else None,
        _summed_like(grad_bias, bias) if need_bias else None,
        grad_residual if need_residual else None,
        *(None,) * 4,
    )


def _summed_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Gradient `[1, C]` or `[N, C]` in shape and dtype of the parameter, `[C]` or `[N, C]`."""
    if parameter.dim() == 1:
        gradient = gradient[0] if gradient.shape[0] == 1 else gradient.sum(0)
    return gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)


def _fake_backward(grad, input, weight, bias, residual, mean, variance, eps, activation, training, need_residual):
    per_sample = any(affine is not None and affine.dim() == 2 for affine in (weight, bias))
    sum_dtype = torch.promote_types(input.dtype, torch.float32)
    sums = input.new_empty((input.shape[0] if per_sample else 1, 2 * input.shape[1]), dtype=sum_dtype)
    grad_input = torch.empty_like(input, memory_format=torch.channels_last)
    return grad_input, sums, torch.empty_like(grad_input) if need_residual else input.new_empty(0)


_operator = differentiable("batch_norm_act", _forward, _backward)
_backward_operator = not_differentiable("batch_norm_act_backward")


@backend.on_load
def _register() -> None:
    register_fake("batch_norm_act", _fake)
    register_fake("batch_norm_act_backward", _fake_backward)
