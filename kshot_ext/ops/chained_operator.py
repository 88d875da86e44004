"""The operator `chained_conv2d` as an autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.chained_norm_act import gradient_like
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.effective_weight import fake_effective_weight
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter, takes_compact_gradient
from kshot_ext.ops.kernel_names import named, profiling
from kshot_ext.ops.recomputed import require_same_code
from kshot_ext.ops.window import Window


def _fake(
    input: Tensor, mean: Tensor | None, variance: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None,
    eps: float, activation: int, weight: Tensor, code: Tensor, gate: Tensor | None, out_channels: int,
    stride: list[int], padding: list[int], dilation: list[int], depthwise: bool, moments: bool,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    size = Window.of_lists(weight.shape[3:], stride, padding, dilation).output_size(input.shape[2:])
    shape = (input.shape[0], out_channels, *size)
    raw = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)
    mean, variance = (input.new_empty(out_channels if moments else 0, dtype=torch.float32) for _ in range(2))
    return raw, mean, variance


def _forward(ctx: Any, *inputs: Any, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = (named if profiling() else torch.ops.kshot_ext).chained_conv2d(*inputs)
    input, mean, variance, norm_weight, norm_bias, ctx.eps, ctx.activation, weight, code, gate, _, *rest = inputs
    *ctx.window_and_form, moments, ctx.allow_tf32 = rest
    raw, out_mean, out_variance = output
    ctx.owned = weight if isinstance(weight, OwnedParameter) and code.dim() == 1 else None
    ctx.code = code
    ctx.save_for_backward(input, mean, variance, norm_weight, norm_bias, weight, code, gate, raw, out_mean)
    ctx.set_materialize_grads(False)
    if not moments:
        ctx.mark_non_differentiable(out_mean, out_variance)
    return output


def _backward(ctx: Any, grad: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None) -> tuple[Any, ...]:
    if grad is None and grad_mean is None and grad_variance is None:
        return (None,) * 17
    input, mean, variance, norm_weight, norm_bias, weight, code, gate, raw, out_mean = ctx.saved_tensors
    if code is not ctx.code:
        require_same_code(ctx.code, code)
    if grad is None:  # only the moments are used
        grad = torch.zeros_like(raw)
    needs = ctx.needs_input_grad
    need_weight, need_code, need_gate = needs[7:10]
    compact = need_weight and takes_compact_gradient(ctx.owned, ctx)
    norm = mean, variance, norm_weight, norm_bias
    results = _backward_operator(
        grad, grad_mean, grad_variance, input, *norm, ctx.eps, ctx.activation, weight, code, gate, raw, out_mean,
        *ctx.window_and_form, any(needs[:5]), compact, need_weight and not compact, need_code, need_gate,
        ctx.allow_tf32,
    )  # fmt: skip
    grad_input, *of_norm, effective, grad_weight, grad_code, grad_gate = results
    return (
        grad_input if needs[0] else None,
        *(gradient_like(g, p) if need else None for g, p, need in zip(of_norm, norm, needs[1:5])),
        None,
        None,
        (CompactGradient.of_use(weight, code, gate, effective) if compact else grad_weight) if need_weight else None,
        grad_code if need_code else None,
        grad_gate if need_gate else None,
        *(None,) * 7,
    )


def _fake_backward(
    grad: Tensor, grad_mean: Tensor | None, grad_variance: Tensor | None, input: Tensor, mean: Tensor | None,
    variance: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float, activation: int,
    weight: Tensor, code: Tensor, gate: Tensor | None, output: Tensor, out_mean: Tensor, stride: list[int],
    padding: list[int], dilation: list[int], depthwise: bool, need_input: bool, need_effective: bool, need_weight: bool,
    need_code: bool, need_gate: bool, allow_tf32: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    def none(like: Tensor = code) -> Tensor:  # a tensor of its own each time: results share no memory
        return like.new_empty(0)

    channels = input.shape[1]
    rows = input.shape[0] if any(p is not None and p.dim() == 2 for p in (norm_weight, norm_bias)) else 1
    has_norm = need_input and mean is not None
    widths = (grad.shape[1], 1 if depthwise else channels)
    return (
        torch.empty_like(input, memory_format=torch.channels_last) if need_input else none(input),
        *(code.new_empty(channels) if has_norm else none(input) for _ in range(2)),
        *(code.new_empty(rows, channels) if has_norm else none(input) for _ in range(2)),
        fake_effective_weight(weight, code, gate, *widths) if need_effective else none(),
        torch.empty_like(weight) if need_weight else none(),
        torch.empty_like(code, memory_format=torch.contiguous_format) if need_code else none(),
        torch.empty_like(gate, memory_format=torch.contiguous_format) if gate is not None and need_gate else none(),
    )


operator = differentiable("chained_conv2d", _forward, _backward)
_backward_operator = not_differentiable("chained_conv2d_backward")


@backend.on_load
def _register() -> None:
    register_fake("chained_conv2d", _fake)
    register_fake("chained_conv2d_backward", _fake_backward)
