"""Dense convolution with a weight mixed anew for every sample, by our own kernel in channels_last."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.differentiable import differentiable, not_differentiable
from kshot_ext.ops.window import Window


def per_sample_conv2d(
    input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, out_channels: int, window: Window
) -> Tensor:
    """Convolve sample n with its own weight, which is never stored.

        output[n, o] = bias[n, o] + sum_i (sum_k code[n, k] * weight[k, o, i]) (*) input[n, i]

    Args:
        input: `[N, C_in', H, W]`, float32, on the CPU.
        weight: dictionary `[K, C_out, C_in, KH, KW]`, of which the leading channels are used.
        code: `[N, K]`.
        bias: `[N, C_out']` or None.
        out_channels: C_out'.
        window: stride, padding and dilation (the kernel size is the weight's).

    Returns:
        `[N, C_out', H', W']` in channels_last.

    Gradients:
        To `input`, `weight`, `code` and `bias`; deterministic, whatever the number of threads.
    """
    _, *lists = window.as_lists()
    return _operator(input, weight, code, bias, out_channels, *lists)


def _fake(input, weight, code, bias, out_channels, stride, padding, dilation) -> Tensor:
    size = Window(weight.shape[3:], stride, padding, dilation).output_size(input.shape[2:])
    shape = (input.shape[0], out_channels, *size)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:
    input, weight, code, _, _, *ctx.window = inputs
    ctx.save_for_backward(input, weight, code)


def _backward(ctx, grad: Tensor):
    input, weight, code = ctx.saved_tensors
    need_input, need_weight, need_code, need_bias = ctx.needs_input_grad[:4]
    grad_input, grad_weight, grad_code = _backward_operator(
        grad, input, weight, code, *ctx.window, need_input, need_weight or need_code
    )
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        grad_code if need_code else None,
        grad.sum((2, 3)) if need_bias else None,
        *(None,) * 4,
    )


def _fake_backward(grad, input, weight, code, stride, padding, dilation, need_input, need_parameters):
    none = input.new_empty(0)
    return (
        torch.empty_like(input, memory_format=torch.channels_last) if need_input else none,
        torch.empty_like(weight) if need_parameters else torch.empty_like(none),
        torch.empty_like(code, memory_format=torch.contiguous_format) if need_parameters else torch.empty_like(none),
    )


_operator = differentiable("per_sample_conv2d", _setup_context, _backward)
_backward_operator = not_differentiable("per_sample_conv2d_backward")


@backend.on_load
def _register() -> None:
    torch.library.register_fake("kshot_ext::per_sample_conv2d", _fake)
    torch.library.register_fake("kshot_ext::per_sample_conv2d_backward", _fake_backward)
