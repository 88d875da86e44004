"""The end of a chain: norm, residual and activation of a raw output whose moments are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from kshot_ext import backend, reference
from kshot_ext.ops import checks, plans
from kshot_ext.ops.differentiable import below_autograd, differentiable, is_recorded, not_differentiable
from kshot_ext.ops.fakes import register_fake
from kshot_ext.reference.batch_norm_act import ACTIVATIONS
from kshot_ext.reference.chained_conv2d import ChannelNorm


def chained_norm_act(input: Tensor, norm: ChannelNorm, residual: Tensor | None = None) -> Tensor:
    """Apply a norm that waits, add a residual, activate: the end of a chain of `chained_conv2d`.

        output = activation((input - mean) / sqrt(variance + eps) * weight + bias + residual)

    One pass over each tensor, forward and backward.

    Args:
        input: `[N, C, H, W]`, the raw output of a link; best in channels_last.
        norm: its norm; with the moments of that link, gradients go back through them.
        residual: `[N, C, H, W]`, in the input's dtype; default: none.

    Returns:
        `[N, C, H, W]` in the input's dtype.

    Gradients:
        To `input`, `residual` and the tensors of `norm`.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size or device, naming the argument.

    Example:
        >>> from kshot_ext.functional import ChannelNorm
        >>> raw = torch.tensor([-3.0, 5.0]).reshape(2, 1, 1, 1)
        >>> norm = ChannelNorm(torch.tensor([1.0]), torch.tensor([4.0]), eps=0.0, activation="relu")
        >>> chained_norm_act(raw, norm).flatten()
        tensor([0., 2.])
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
                "chained_norm_act",
                traits(input), wrapped(input),
                traits(norm.mean), wrapped(norm.mean), traits(norm.variance), wrapped(norm.variance),
                norm.weight is not None and (traits(norm.weight), wrapped(norm.weight)),
                norm.bias is not None and (traits(norm.bias), wrapped(norm.bias)),
                norm.activation,
                residual is not None and (traits(residual), wrapped(residual)),
                torch.is_grad_enabled(),
            )  # fmt: skip
            plan = plans.kept.get(key)
        except (AttributeError, RuntimeError, TypeError):  # no tensor, or no norm: the checks say so
            key = None
    if plan is None:
        return _first_call(key, input, norm, residual)
    return plan.run(input, *norm[:4], residual, norm.eps, plan.activation)


class _Plan(NamedTuple):
    """What to run: `run(input, mean, variance, weight, bias, residual, eps, activation)`."""

    run: Callable[..., Tensor]
    activation: int


def _first_call(key: plans.Key | None, input: Tensor, norm: ChannelNorm, residual: Tensor | None) -> Tensor:
    """A call without a plan; keeps one if there is a `key` for it, and nothing to cast."""
    checks.check_tensor("input", input, "[N, C, H, W]", (4,))
    check_norm(norm, input)
    if residual is not None:
        checks.check_tensor("residual", residual, "like input", (4,))
        if residual.shape != input.shape:
            raise ValueError(f"residual must have shape {list(input.shape)} like input, got {list(residual.shape)}")
        checks.check_companion("residual", residual, "input", input)
    if backend.kernels_for(input.device) is None or input.dtype == torch.float64:
        return reference.chained_norm_act(input, norm, residual)
    if residual is not None and residual.dtype != input.dtype:  # neither may be rounded to the other's type
        whole: Tensor = _operator.call(*_operands(input.float(), norm, residual.float()))
        return whole.to(input.dtype)
    operands = _operands(input, norm, residual)
    if key is not None and plans.are_plain(*operands[:-2]):
        run = _operator.recorded if is_recorded(operands[:-2]) else _operator.unrecorded
        plans.keep(key, _Plan(run, operands[-1]))
    output: Tensor = _operator.call(*operands)
    return output


def check_norm(norm: ChannelNorm, input: Tensor, channels: int | None = None, subject: str = "input") -> None:
    """`norm` fits `input`, `[N, C, H, W]`, or what is made of it and has so many channels."""
    samples = input.shape[0]
    channels = input.shape[1] if channels is None else channels
    for name, given in zip(ChannelNorm._fields, norm[:4]):
        per_sample = name in ("weight", "bias")
        if given is None and per_sample:
            continue
        layout = "[C] or [N, C]" if per_sample else "[C]"
        tensor = checks.check_tensor(f"norm.{name}", given, layout, (1, 2) if per_sample else (1,))
        if tensor.shape[-1] != channels or (tensor.dim() == 2 and tensor.shape[0] != samples):
            raise ValueError(
                f"norm.{name} must be {layout} with N, C = {samples}, {channels} as {subject} has, "
                f"got {list(tensor.shape)}"
            )
        checks.check_companion(f"norm.{name}", tensor, "input", input)
    if norm.activation not in ACTIVATIONS:
        raise ValueError(f"norm.activation must be one of {', '.join(ACTIVATIONS)}, got {norm.activation!r}")


def operator_arguments(norm: ChannelNorm | None) -> tuple[Any, ...]:
    """Mean, variance, weight, bias, eps and activation as the operators take them."""
    if norm is None:
        return None, None, None, None, 0.0, 0
    return *norm[:5], list(ACTIVATIONS).index(norm.activation)


def _operands(input: Tensor, norm: ChannelNorm, residual: Tensor | None) -> tuple[Any, ...]:
    *tensors, eps, activation = operator_arguments(norm)
    return input, *tensors, residual, eps, activation


def gradient_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Gradient `[C]`, `[1, C]` or `[N, C]` in shape and dtype of a norm's tensor, `[C]` or `[N, C]`."""
    if gradient.dim() > parameter.dim():
        gradient = gradient[0] if gradient.shape[0] == 1 else gradient.sum(0)
    elif parameter.dim() == 2 and parameter.shape[0] == 0:
        gradient = gradient[:0]  # kernels make one row of sums at least
    return gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)


def _fake(
    input: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor, bias: Tensor | None,
    residual: Tensor | None, eps: float, activation: int,
) -> Tensor:  # fmt: skip
    return torch.empty_like(input, memory_format=torch.channels_last)


def _forward(ctx: Any, *inputs: Any, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.chained_norm_act(*inputs)
    *tensors, ctx.eps, ctx.activation = inputs
    ctx.save_for_backward(*tensors)
    return output


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    input, mean, variance, weight, bias, residual = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_input, *of_norm, grad_residual = _backward_operator(
        grad, input, mean, variance, weight, bias, residual, ctx.eps, ctx.activation, needs[5]
    )
    norm = zip(of_norm, (mean, variance, weight, bias), needs[1:5])
    return (
        grad_input if needs[0] else None,
        *(gradient_like(gradient, parameter) if need else None for gradient, parameter, need in norm),
        grad_residual if needs[5] else None,
        None,
        None,
    )


def _fake_backward(
    grad: Tensor, input: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor, bias: Tensor | None,
    residual: Tensor | None, eps: float, activation: int, need_residual: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    rows = input.shape[0] if any(p is not None and p.dim() == 2 for p in (weight, bias)) else 1
    sums = [input.new_empty(shape, dtype=torch.float32) for shape in ((input.shape[1],), (rows, input.shape[1]))]
    grad_input = torch.empty_like(input, memory_format=torch.channels_last)
    none = input.new_empty(0)
    return (
        grad_input,
        *(torch.empty_like(values) for values in (sums[0], sums[0], sums[1], sums[1])),
        torch.empty_like(grad_input) if need_residual else none,
    )


_operator = differentiable("chained_norm_act", _forward, _backward)
_backward_operator = not_differentiable("chained_norm_act_backward")


@backend.on_load
def _register() -> None:
    register_fake("chained_norm_act", _fake)
    register_fake("chained_norm_act_backward", _fake_backward)
