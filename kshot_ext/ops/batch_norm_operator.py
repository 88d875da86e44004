"""The operator `batch_norm_act`, which mixes weight and bias where they are dictionaries, with its autograd formula."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter, takes_compact_gradient
from kshot_ext.ops.recomputed import require_same_code
from kshot_ext.reference.batch_norm_act import ACTIVATIONS


def _fake(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, code: Tensor | None, residual: Tensor | None,
    mean: Tensor | None, variance: Tensor | None, eps: float, activation: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    sum_dtype = torch.promote_types(input.dtype, torch.float32)
    statistics = input.new_empty(input.shape[1] if mean is None else 0, dtype=sum_dtype)
    output = torch.empty_like(input, memory_format=torch.channels_last)
    return output, statistics, torch.empty_like(statistics)


_IDENTITY = list(ACTIVATIONS).index("identity")


def _forward(ctx: Any, *inputs: Any, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.batch_norm_act(*inputs)
    input, weight, bias, code, residual, mean, variance, ctx.eps, ctx.activation = inputs
    ctx.training = mean is None
    if ctx.training:
        _, mean, variance = output
    if ctx.activation == _IDENTITY:  # its slope is one wherever it is taken, whatever was added
        residual = None
    ctx.mixes = ctx.owned_weight = ctx.owned_bias = None
    if code is not None:
        ctx.mixes = (weight is not None and weight.dim() == 2) or (bias is not None and bias.dim() == 2)
        if code.dim() == 1:
            ctx.owned_weight = weight if isinstance(weight, OwnedParameter) and weight.dim() == 2 else None
            ctx.owned_bias = bias if isinstance(bias, OwnedParameter) and bias.dim() == 2 else None
    ctx.code = code
    ctx.save_for_backward(input, weight, bias, code, residual, mean, variance)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    return output


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:  # nothing that was made of the output has a gradient
        return (None,) * 9
    input, weight, bias, code, residual, mean, variance = ctx.saved_tensors
    if code is not ctx.code:
        require_same_code(ctx.code, code)
    need_input, need_weight, need_bias, need_code, need_residual = ctx.needs_input_grad[:5]
    linear = ctx.activation == _IDENTITY
    need_code = need_code and ctx.mixes
    compact_weight = need_weight and takes_compact_gradient(ctx.owned_weight, ctx)
    compact_bias = need_bias and takes_compact_gradient(ctx.owned_bias, ctx)
    grad_input, grad_weight, grad_bias, grad_code, grad_residual = _backward_operator(
        grad, input, weight, bias, code, residual, mean, variance, ctx.eps, ctx.activation, ctx.training,
        need_weight, compact_weight, need_bias, compact_bias, need_code, need_residual and not linear,
    )  # fmt: skip
    if compact_weight:
        grad_weight = CompactGradient.of_use(weight, code, None, grad_weight)
    if compact_bias:
        grad_bias = CompactGradient.of_use(bias, code, None, grad_bias)
    if linear:
        grad_residual = grad
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        grad_bias if need_bias else None,
        grad_code if need_code else None,
        grad_residual if need_residual else None,
        *(None,) * 4,
    )


def _fake_backward(
    grad: Tensor, input: Tensor, weight: Tensor | None, bias: Tensor | None, code: Tensor | None,
    residual: Tensor | None, mean: Tensor | None, variance: Tensor | None, eps: float, activation: int, training: bool,
    need_weight: bool, compact_weight: bool, need_bias: bool, compact_bias: bool, need_code: bool, need_residual: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    sum_dtype = torch.promote_types(input.dtype, torch.float32)

    def of_parameter(parameter: Tensor | None, need: bool, compact: bool) -> Tensor:
        if parameter is None or not need:
            return input.new_empty(0, dtype=sum_dtype)
        if compact and code is not None:
            return parameter.new_empty((*code.shape[:-1], input.shape[1]))
        return torch.empty_like(parameter, memory_format=torch.contiguous_format)

    grad_input = torch.empty_like(input, memory_format=torch.channels_last)
    return (
        grad_input,
        of_parameter(weight, need_weight, compact_weight),
        of_parameter(bias, need_bias, compact_bias),
        code.new_empty(code.shape) if code is not None and need_code else input.new_empty(0, dtype=sum_dtype),
        torch.empty_like(grad_input) if need_residual else input.new_empty(0),
    )


# Operands: input, weight, bias, code, residual, mean, variance; then eps, and the number of the activation.
operator = differentiable("batch_norm_act", _forward, _backward)
_backward_operator = not_differentiable("batch_norm_act_backward")


@backend.on_load
def _register() -> None:
    register_fake("batch_norm_act", _fake)
    register_fake("batch_norm_act_backward", _fake_backward)
