"""Even and odd channels of images as two tensors: the shuffle of ShuffleNetV2.

even[n, c] = input[n, 2 c]      odd[n, c] = input[n, 2 c + 1]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.memory_order import has_channels_innermost


def even_and_odd_channels(input: Tensor) -> tuple[Tensor, Tensor]:
    """The channels of `[N, C, ...]` in two parts, each a tensor of its own in the memory order of the input.

    Slices say the same, and whatever is not a tensor, as what `torch.fx` traces with, is sliced. But a convolution
    copies a slice forward and backward, and the gradient of two slices is two tensors full of zeros and their sum,
    where this one writes each value once.

    Gradients:
        To `input`.

    Example:
        >>> even_and_odd_channels(torch.arange(4.0).reshape(1, 4, 1, 1))[1].flatten()
        tensor([1., 3.])
    """
    if isinstance(input, Tensor) and input.dim() == 4 and not backend.under_transform():
        return _EvenAndOdd.apply(input)
    return input[:, ::2], input[:, 1::2]


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


def _memory_format(input: Tensor) -> torch.memory_format:
    return torch.channels_last if has_channels_innermost(input) else torch.contiguous_format
