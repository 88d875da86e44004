"""Even and odd channels of images as two tensors: the shuffle of ShuffleNetV2.

even[n, c] = input[n, 2 c]      odd[n, c] = input[n, 2 c + 1]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.checks import DTYPES
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.memory_order import has_channels_innermost


def even_and_odd_channels(input: Tensor) -> tuple[Tensor, Tensor]:
    """The channels of `[N, C, ...]` in two parts, each a tensor of its own in the memory order of the input.

    Slices say the same, and whatever is not a tensor, as what `torch.fx` traces with, is sliced. But a convolution
    copies a slice forward and backward, and the gradient of two slices is two tensors full of zeros and their sum,
    where this one writes each value once; in channels_last, on the CPU, by a kernel of ours, since torch copies
    every second element one by one.

    Gradients:
        To `input`.

    Example:
        >>> even_and_odd_channels(torch.arange(4.0).reshape(1, 4, 1, 1))[1].flatten()
        tensor([1., 3.])
    """
    if not (isinstance(input, Tensor) and input.dim() == 4) or backend.under_transform():
        return input[:, ::2], input[:, 1::2]
    if input.device.type == "cpu" and input.is_contiguous(memory_format=torch.channels_last) and _has_kernel(input):
        return _operator.call(input)
    return _EvenAndOdd.apply(input)


def _has_kernel(input: Tensor) -> bool:
    """Whether even and odd channels are the even and odd elements, and our kernel may take them."""
    alike = input.shape[1] % 2 == 0 and input.dtype in DTYPES and not torch.compiler.is_compiling()
    return alike and backend.kernels_for(input.device) is not None


class _EvenAndOdd(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor) -> tuple[Tensor, Tensor]:
        memory_format = _memory_format(input)
        return input[:, ::2].clone(memory_format=memory_format), input[:, 1::2].clone(memory_format=memory_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.shape, ctx.memory_format = inputs[0].shape, _memory_format(inputs[0])

    @staticmethod
    def backward(ctx: Any, even: Tensor, odd: Tensor) -> Tensor:
        return _joined(even, odd, ctx.shape, ctx.memory_format)


def _memory_format(input: Tensor) -> torch.memory_format:
    return torch.channels_last if has_channels_innermost(input) else torch.contiguous_format


def _joined(even: Tensor, odd: Tensor, shape: torch.Size, memory_format: torch.memory_format) -> Tensor:
    joined = torch.empty(shape, dtype=even.dtype, device=even.device, memory_format=memory_format)
    joined[:, ::2] = even
    joined[:, 1::2] = odd
    return joined


def _forward(ctx, input: Tensor, *, output=None) -> tuple[Tensor, Tensor]:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.even_and_odd_channels(input)
    ctx.shape = input.shape
    return output


def _backward(ctx, even: Tensor, odd: Tensor) -> Tensor:
    if torch.is_grad_enabled():  # slices have a second derivative
        return _joined(even, odd, ctx.shape, torch.channels_last)
    return _backward_operator(even, odd)


def _fake(input: Tensor) -> tuple[Tensor, Tensor]:
    shape = input.shape[0], input.shape[1] // 2, *input.shape[2:]
    even = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)
    return even, torch.empty_like(even)


def _fake_backward(even: Tensor, odd: Tensor) -> Tensor:
    shape = even.shape[0], 2 * even.shape[1], *even.shape[2:]
    return torch.empty(shape, dtype=even.dtype, device=even.device, memory_format=torch.channels_last)


_operator = differentiable("even_and_odd_channels", _forward, _backward)
_backward_operator = not_differentiable("even_and_odd_channels_backward")


@backend.on_load
def _register() -> None:
    register_fake("even_and_odd_channels", _fake)
    register_fake("even_and_odd_channels_backward", _fake_backward)
