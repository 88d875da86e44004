"""The operator `batch_norm_act` as autograd functions: with mixed parameters, and one that mixes by itself."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.differentiable import (
    below_autograd,
    differentiable,
    formula_of,
    not_differentiable,
    recorded_function,
)
from kshot_ext.ops.effective_weight import dictionary_gradients
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter
from kshot_ext.reference.batch_norm_act import ACTIVATIONS


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


def _mixing_forward(ctx, input, weight, bias, code, residual, mean, variance, eps, activation):
    """The operator with parameters that may be dictionaries, which it mixes; without a `ctx` nothing is kept."""
    operators, mixed_weight, mixed_bias = torch.ops.kshot_ext, weight, bias
    with below_autograd():
        if weight is not None and weight.dim() == 2:
            mixed_weight = operators.effective_weight(weight, code, None, weight.shape[1], 1)
        if bias is not None and bias.dim() == 2:
            mixed_bias = operators.effective_weight(bias, code, None, bias.shape[1], 1)
        output = operators.batch_norm_act(input, mixed_weight, mixed_bias, residual, mean, variance, eps, activation)
    if ctx is None:
        return output
    ctx.eps, ctx.activation, ctx.training = eps, activation, mean is None
    if ctx.training:
        _, mean, variance = output
    if activation == _IDENTITY:
        residual = None
    shared = code is not None and code.dim() == 1
    ctx.owned = (
        weight if shared and isinstance(weight, OwnedParameter) else None,
        bias if shared and isinstance(bias, OwnedParameter) else None,
    )
    ctx.save_for_backward(input, mixed_weight, mixed_bias, residual, mean, variance, weight, bias, code)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    return output


def _mixing_backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 9
    input, mixed_weight, mixed_bias, residual, mean, variance, weight, bias, code = ctx.saved_tensors
    need_input, *need_affine, need_code, need_residual = ctx.needs_input_grad[:5]
    linear = ctx.activation == _IDENTITY
    grad_input, sums, grad_residual = _backward_operator(
        grad, input, mixed_weight, mixed_bias, residual, mean, variance, ctx.eps, ctx.activation, ctx.training,
        need_residual and not linear,
    )  # fmt: skip
    grad_bias, grad_weight = sums.view(sums.shape[0], 2, input.shape[1]).unbind(1)
    affine, of_code = [], []
    sides = zip((weight, bias), (mixed_weight, mixed_bias), (grad_weight, grad_bias), need_affine, ctx.owned)
    for parameter, mixed, gradient, need, owned in sides:
        dictionary = parameter is not None and parameter.dim() == 2
        if not need and not (need_code and dictionary):
            affine.append(None)
            continue
        gradient = _summed_like(gradient, mixed)
        if dictionary:
            gradient, grad_code, _ = dictionary_gradients(
                gradient, parameter, code, None, owned, ctx, need, need_code, False
            )
            of_code.append(grad_code)
        affine.append(gradient)
    return (
        grad_input if need_input else None,
        *affine,
        sum(of_code[1:], of_code[0]) if need_code and of_code else None,
        (grad if linear else grad_residual) if need_residual else None,
        *(None,) * 4,
    )


# The operator with dictionaries, and a code after the bias: as autograd records it, and as it does not.
recorded = recorded_function(formula_of("mixing_batch_norm_act", _mixing_forward, _mixing_backward))
unrecorded = partial(_mixing_forward, None)
operator = differentiable("batch_norm_act", _forward, _backward)
_backward_operator = not_differentiable("batch_norm_act_backward")


@backend.on_load
def _register() -> None:
    register_fake("batch_norm_act", _fake)
    register_fake("batch_norm_act_backward", _fake_backward)
