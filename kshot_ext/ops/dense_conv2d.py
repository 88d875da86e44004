"""Dense convolution with one weight for the batch, by our own matrix product in channels_last."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.differentiable import differentiable, not_differentiable
from kshot_ext.ops.window import Window


def dense_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
    """`torch.nn.functional.conv2d` with one group, for the thin layers on which the vendor's library is slow.

    Args:
        input: `[N, C_in, H, W]`, float32, on the CPU.
        weight: `[C_out, C_in, KH, KW]`.
        bias: `[C_out]` or None.
        window: stride, padding and dilation (the kernel size is the weight's).

    Returns:
        `[N, C_out, H', W']` in channels_last.

    Gradients:
        To `input`, `weight` and `bias`; deterministic, whatever the number of threads.
    """
    _, *lists = window.as_lists()
    return _operator(input, weight, bias, *lists)


def _fake(input, weight, bias, stride, padding, dilation) -> Tensor:
    size = Window(weight.shape[2:], stride, padding, dilation).output_size(input.shape[2:])
    shape = (input.shape[0], weight.shape[0], *size)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:
    input, weight, _, *ctx.window = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx, grad: Tensor):
    input, weight = ctx.saved_tensors
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_input, grad_weight = _backward_operator(grad, input, weight, *ctx.window, need_input, need_weight)
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        grad.sum((0, 2, 3)) if need_bias else None,
        *(None,) * 3,
    )


def _fake_backward(grad, input, weight, stride, padding, dilation, need_input, need_weight):
    return (
        torch.empty_like(input, memory_format=torch.channels_last) if need_input else input.new_empty(0),
        torch.empty_like(weight) if need_weight else input.new_empty(0),
    )


_operator = differentiable("dense_conv2d", _setup_context, _backward)
_backward_operator = not_differentiable("dense_conv2d_backward")


@backend.on_load
def _register() -> None:
    torch.library.register_fake("kshot_ext::dense_conv2d", _fake)
    torch.library.register_fake("kshot_ext::dense_conv2d_backward", _fake_backward)
