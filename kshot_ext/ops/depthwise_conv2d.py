"""Depthwise convolution in channels_last by our own kernels, with a weight for the batch or one per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.differentiable import differentiable, not_differentiable
from kshot_ext.ops.window import Window


def depthwise_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
    """Convolve each channel with its own kernel.

        output[n, c] = bias[c] + weight[c] (*) input[n, c]

    Args:
        input: `[N, C, H, W]`, on the CPU.
        weight: tap-major, `[KH * KW, C]` for the batch or `[N, KH * KW, C]`, one per sample.
        bias: `[C]`, `[N, C]` or None.
        window: kernel size, stride, padding and dilation.

    Returns:
        `[N, C, H', W']` in channels_last.

    Gradients:
        To `input`, `weight` and `bias`; deterministic, whatever the number of threads.
    """
    return _operator(input, weight, bias, *window.as_lists())


def _fake(input, weight, bias, kernel, stride, padding, dilation) -> Tensor:
    height, width = Window(kernel, stride, padding, dilation).output_size(input.shape[2:])
    shape = (input.shape[0], input.shape[1], height, width)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:
    input, weight, bias, *ctx.window = inputs
    ctx.bias_rank = None if bias is None else bias.dim()
    ctx.save_for_backward(input, weight)


def _backward(ctx, grad: Tensor):
    input, weight = ctx.saved_tensors
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_input, grad_weight, grad_bias = _backward_operator(
        grad, input, weight, *ctx.window, need_input, need_weight or need_bias
    )
    if need_bias and grad_bias.dim() != ctx.bias_rank:
        # The kernel sums over samples when the weight is shared; the bias may be shared when the weight is not.
        grad_bias = grad_bias.sum(0) if ctx.bias_rank == 1 else grad.sum((2, 3))
    return (
        grad_input if need_input else None,
        grad_weight.to(weight.dtype) if need_weight else None,
        grad_bias.to(weight.dtype) if need_bias else None,
        *(None,) * 4,
    )


def _fake_backward(grad, input, weight, kernel, stride, padding, dilation, need_input, need_parameters):
    sum_dtype = torch.promote_types(input.dtype, torch.float32)
    if not need_parameters:
        grad_weight, grad_bias = input.new_empty(0), input.new_empty(0)
    else:
        grad_weight = weight.new_empty(weight.shape, dtype=sum_dtype)
        grad_bias = weight.new_empty((*weight.shape[:-2], weight.shape[-1]), dtype=sum_dtype)
    grad_input = torch.empty_like(input, memory_format=torch.channels_last) if need_input else input.new_empty(0)
    return grad_input, grad_weight, grad_bias


_operator = differentiable("depthwise_conv2d", _setup_context, _backward)
_backward_operator = not_differentiable("depthwise_conv2d_backward")


@backend.on_load
def _register() -> None:
    torch.library.register_fake("kshot_ext::depthwise_conv2d", _fake)
    torch.library.register_fake("kshot_ext::depthwise_conv2d_backward", _fake_backward)
