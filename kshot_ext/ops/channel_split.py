"""Even and odd channels of images as two tensors: the shuffle of ShuffleNetV2.

even[n, c] = input[n, 2 c]      odd[n, c] = input[n, 2 c + 1]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.checks import DTYPES
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.memory_order import has_channels_innermost


def even_and_odd_channels(input: Tensor, behind: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The channels of `[N, C, ...]` in two parts, each a tensor of its own in the memory order of the input.

    Slices say the same, and whatever is not a tensor, as what `torch.fx` traces with, is sliced. But a convolution
    copies a slice forward and backward, and the gradient of two slices is two tensors full of zeros and their sum,
    where this one writes each value once; in channels_last, on the CPU, by a kernel of ours, since torch copies
    every second element one by one.

    Args:
        input: the images.
        behind: images `[N, C', ...]` whose channels are counted behind those of the input, as if `torch.cat` had joined
            them; default: none.

    Gradients:
        To `input` and `behind`. A second derivative in channels_last needs the reference backend.

    Example:
        >>> even_and_odd_channels(torch.arange(4.0).reshape(1, 4, 1, 1))[1].flatten()
        tensor([1., 3.])
    """
    images = (input,) if behind is None else (input, behind)
    if not all(isinstance(each, Tensor) and each.dim() == 4 for each in images) or backend.under_transform():
        joined = input if behind is None else torch.cat(images, 1)
        return joined[:, ::2], joined[:, 1::2]
    if all(map(_in_pairs, images)) and not torch.compiler.is_compiling() and backend.kernels_for(input.device):
        split: tuple[Tensor, Tensor] = _operator.call(input, behind)
    else:
        split = _even_and_odd(input if behind is None else torch.cat(images, 1))
    return split


def _in_pairs(image: Tensor) -> bool:
    """Whether our kernel may take an image: it moves pairs of neighbouring channels."""
    alike = image.device.type == "cpu" and image.dtype in DTYPES and image.shape[1] % 2 == 0
    return alike and image.is_contiguous(memory_format=torch.channels_last)


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
        grad = torch.empty(ctx.shape, dtype=even.dtype, device=even.device, memory_format=ctx.memory_format)
        grad[:, ::2] = even
        grad[:, 1::2] = odd
        return grad


_even_and_odd: Callable[[Tensor], tuple[Tensor, Tensor]] = _EvenAndOdd.apply


def _memory_format(input: Tensor) -> torch.memory_format:
    return torch.channels_last if has_channels_innermost(input) else torch.contiguous_format


def _forward(ctx: Any, input: Tensor, behind: Tensor | None = None, *, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.even_and_odd_channels(input, behind)
    ctx.channels = input.shape[1]
    return output


def _backward(ctx: Any, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor | None]:
    first, rest = _backward_operator(even, odd, ctx.channels)
    return first, rest if ctx.channels < even.shape[1] + odd.shape[1] else None


def _fake(input: Tensor, behind: Tensor | None = None) -> tuple[Tensor, Tensor]:
    channels = input.shape[1] + (0 if behind is None else behind.shape[1])
    even = _images(input, channels // 2)
    return even, torch.empty_like(even)


def _fake_backward(even: Tensor, odd: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    rest = 2 * even.shape[1] - channels
    return _images(even, channels), _images(even, rest) if rest > 0 else even.new_empty(0)


def _images(like: Tensor, channels: int) -> Tensor:
    shape = like.shape[0], channels, *like.shape[2:]
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


_operator = differentiable("even_and_odd_channels", _forward, _backward)
_backward_operator = not_differentiable("even_and_odd_channels_backward")


@backend.on_load
def _register() -> None:
    register_fake("even_and_odd_channels", _fake)
    register_fake("even_and_odd_channels_backward", _fake_backward)
