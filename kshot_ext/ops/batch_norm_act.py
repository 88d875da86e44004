"""Batch norm whose affine parameters may be K-shot dictionaries, with a residual and an activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from kshot_ext import backend, reference
from kshot_ext.ops import batch_norm_operator, checks, plans
from kshot_ext.ops.differentiable import is_recorded, must_be_seen
from kshot_ext.ops.effective_weight import leading, mix, recorded_pair
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
    key: plans.Key | None = None
    plan: _Plan | None = None
    if not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # this line and the next are `backend.under_transform`
        or forward_ad._current_level >= 0
        or backend.override.reference
        or torch.jit.is_tracing()
        or has_torch_function((input,))  # also of modes
    ):
        try:
            traits, wrapped = plans.traits, plans.is_wrapped
            key = (
                "batch_norm_act",
                traits(input), input.stride(), wrapped(input),
                weight is not None and (traits(weight), wrapped(weight)),
                bias is not None and (traits(bias), wrapped(bias)),
                running_mean is not None and (traits(running_mean), wrapped(running_mean)),
                running_var is not None and (traits(running_var), wrapped(running_var)),
                code is not None and (traits(code), wrapped(code)),
                residual is not None and (traits(residual), wrapped(residual)),
                f"{training!r} {eps!r} {activation!r}",  # as text, which tells 1 from True and 1.0
                torch.is_grad_enabled(),
            )  # fmt: skip
            plan = plans.kept.get(key)
        except (AttributeError, RuntimeError, TypeError):  # no tensor, or none with strides: the checks say so
            key = None
    if plan is None:
        return _first_call(
            key, input, weight, bias, running_mean, running_var, code, training, momentum, eps, activation, residual
        )
    if plan.fixed:
        return plan.run(input, weight, bias, code, residual, running_mean, running_var, eps, plan.activation)[0]
    output, mean, variance = plan.run(input, weight, bias, code, residual, None, None, eps, plan.activation)
    if running_mean is not None and running_var is not None:  # as `record_moments`
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * plan.unbiased, momentum)
    return output


def _first_call(
    key: plans.Key | None, input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, code: Tensor | None, training: bool, momentum: float, eps: float, activation: str,
    residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """A call without a plan; keeps one if there is a `key` for it, and nothing to cast, cut or copy."""
    check_batch_norm_arguments(input, weight, bias, running_mean, running_var, code, activation, residual)
    training = training or running_mean is None
    if training and 0 < input.numel() <= input.shape[1]:
        raise ValueError(f"expected more than one value per channel in training, got input {list(input.shape)}")
    if backend.kernels_for(input.device) is None:
        return reference.batch_norm_act(
            input, weight, bias, running_mean, running_var, code=code, training=training, momentum=momentum,
            eps=eps, activation=activation, residual=residual,
        )  # fmt: skip
    if key is not None:
        plan = _plan_of(input, weight, bias, running_mean, running_var, code, training, activation, residual)
        if plan is not None:
            plans.keep(key, plan)
    channels, dtype = input.shape[1], input.dtype
    if residual is not None and residual.dtype != dtype:  # a half type must not round the residual, or be rounded to it
        sum_dtype = torch.promote_types(dtype, torch.float32)
        input, residual = input.to(sum_dtype), residual.to(sum_dtype)
    mean = None if running_mean is None else leading(running_mean, channels)
    var = None if running_var is None else leading(running_var, channels)
    statistics = mean, var, training, momentum, eps, activation
    # [N, C, ...] as [N, C, H, W], whose memory format says which form reads it in order.
    image = _as_image(input)
    channels_last = has_channels_innermost(image)
    if not channels_last and _vendor_rounds_once(input, weight, bias, mean, var):
        scale, shift = (active_affine(each, code, channels, input.dtype) for each in (weight, bias))
        return _vendor_form(input, scale, shift, *statistics, residual).to(dtype)
    scale, shift, mixed_by = _operands(weight, bias, code, channels, input.dtype)
    added = None if residual is None else _like(residual, image)
    output = _like(_native_form(image, scale, shift, mixed_by, *statistics, added), input).to(dtype)
    return output if channels_last or output.is_contiguous() else output.contiguous()


def _operands(
    weight: Tensor | None, bias: Tensor | None, code: Tensor | None, channels: int, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Weight, bias and code as the operator takes them: dictionaries, and the code for them, in the sum type."""
    sum_dtype = torch.promote_types(dtype, torch.float32)
    mixes = any(parameter is not None and parameter.dim() == 2 for parameter in (weight, bias))

    def operand(parameter: Tensor | None) -> Tensor | None:
        if parameter is None or parameter.dim() == 1:
            return None if parameter is None else leading(parameter, channels)
        return parameter.to(sum_dtype)

    return operand(weight), operand(bias), code.to(sum_dtype) if mixes and code is not None else None


class _Plan(NamedTuple):
    """What to run: `run(input, weight, bias, code, residual, mean, variance, eps, activation)`.

    Attributes:
        run: the operator, which mixes dictionaries by itself.
        activation: the number of the activation.
        fixed: whether statistics are given.
        unbiased: what makes the variance of the batch unbiased.
    """

    run: Callable[..., tuple[Tensor, Tensor, Tensor]]
    activation: int
    fixed: bool
    unbiased: float


def _plan_of(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    code: Tensor | None, training: bool, activation: str, residual: Tensor | None,
) -> _Plan | None:  # fmt: skip
    """The plan of calls like this one, or None where operands are to be cast, cut or copied."""
    running = [each for each in (running_mean, running_var) if each is not None]
    affine = [each for each in (weight, bias) if each is not None]
    dictionaries = [each for each in affine if each.dim() == 2]
    channels, sum_dtype = input.shape[1], torch.promote_types(input.dtype, torch.float32)
    if input.dim() != 4 or input.numel() == 0 or not has_channels_innermost(input):
        return None
    if not plans.are_plain(input, *affine, *running, code, residual) or any(each.requires_grad for each in running):
        return None
    if any(each.shape[-1] != channels for each in (*affine, *running)):
        return None
    if any(
        each.dtype != sum_dtype
        for each in (*running, *dictionaries, *([code] if dictionaries and code is not None else []))
    ):
        return None
    if residual is not None and residual.dtype != input.dtype:
        return None
    count = input.numel() // channels
    recorded = is_recorded((input, weight, bias, code, residual))
    operator = batch_norm_operator.operator
    run = operator.recorded if recorded else operator.unrecorded
    return _Plan(run, list(ACTIVATIONS).index(activation), not training, count / (count - 1) if training else 1.0)


def _like(x: Tensor, shaped: Tensor) -> Tensor:
    """`x` in the shape of `shaped`; they differ at most in rank."""
    return x if x.dim() == shaped.dim() else x.reshape(shaped.shape)


def _vendor_rounds_once(input: Tensor, *others: Tensor | None) -> bool:
    """Whether torch's batch norm, and the operations after it, work in the dtype of our sums.

    They would round half types after every step, and take no parameters and statistics of other dtypes; dictionaries
    are mixed in the dtype of sums whatever theirs is.
    """
    full = input.dtype in (torch.float32, torch.float64)
    return full and all(other is None or other.dim() == 2 or other.dtype == input.dtype for other in others)


def _as_image(x: Tensor) -> Tensor:
    """`[N, C, ...]` as `[N, C, H, W]`."""
    if x.dim() == 4:
        return x
    if x.dim() > 4:
        return x.flatten(2, 3)
    image = (..., *(None,) * (4 - x.dim()))
    return x[image]


def _native_form(
    image: Tensor, weight: Tensor | None, bias: Tensor | None, code: Tensor | None, mean: Tensor | None,
    var: Tensor | None, training: bool, momentum: float, eps: float, activation: str, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """Our kernels: mixing, normalisation, residual and activation in one pass over each tensor.

    The output is channels_last; of an image that is not, they make a copy that is.
    """
    fixed = (None, None) if training else (mean, var)
    index = list(ACTIVATIONS).index(activation)
    operands = image, weight, bias, code, residual, *fixed
    output: Tensor
    output, batch_mean, batch_var = batch_norm_operator.operator.call(*operands, eps, index)
    count = image.numel() // image.shape[1]
    if training and mean is not None and var is not None:
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


def _vendor_form(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool,
    momentum: float, eps: float, activation: str, residual: Tensor | None,
) -> Tensor:  # fmt: skip
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


def _vendor_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool,
    momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """`torch.nn.functional.batch_norm` without its own checks, which in torch 2.11 refuse `eps` = 0.

    In training its gradient reads no running statistics. It keeps them all the same, and would take offence if another
    call of the layer, in another memory format, moved them before the backward pass; so it gets them without their
    version.

    Where an axis has size one it gets a single axis of places: the backward pass of its CPU kernels takes a gradient
    for contiguous that is channels_last but for the stride of such an axis, which says nothing, and reads it in the
    wrong order.
    """
    if training and mean is not None and var is not None:
        mean, var = mean.data, var.data
    image = input.flatten(2) if 1 in input.shape else input
    output = torch.batch_norm(image, weight, bias, mean, var, training, momentum, eps, torch.backends.cudnn.enabled)
    return output.view_as(input)


def check_batch_norm_arguments(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    code: Tensor | None, activation: str, residual: Tensor | None,
) -> None:  # fmt: skip
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
        if affine.dim() == 2:
            if code is None:
                raise ValueError(f"code must be given: {name} is a dictionary {list(affine.shape)}")
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
    assert code is not None, "a dictionary comes with a code"
    return mix(parameter.to(torch.promote_types(dtype, torch.float32)), code, None, channels, None)


def mixed_affine(
    weight: Tensor | None, bias: Tensor | None, code: Tensor | None, channels: int, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Active parts of weight and bias; of two dictionaries that need no cast as one step of the graph."""
    operands = (weight, bias, code)
    if (
        weight is not None
        and bias is not None
        and code is not None
        and weight.dtype == bias.dtype == code.dtype == torch.promote_types(dtype, torch.float32)
        and weight.dim() == bias.dim() == 2
        and is_recorded(operands)
        and plans.are_plain(*operands)
        and not must_be_seen(operands)
        and backend.kernels_for(weight.device) is not None
    ):
        pair: tuple[Tensor, Tensor] = recorded_pair(weight, bias, code, None, channels, 1)
        return pair
    return active_affine(weight, code, channels, dtype), active_affine(bias, code, channels, dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View `[C']` or `[N, C']` so that it broadcasts over `x`, `[N, C', ...]`."""
    return values.reshape(*values.shape, *(1,) * (x.dim() - 2))
