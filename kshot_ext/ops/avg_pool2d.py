"""Average pooling of channels_last images, where torch's own takes many times as long as memory asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.memory_order import has_channels_innermost
from kshot_ext.ops.window import spelt_out


def avg_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average the windows of an image.

        output[n, c, y, x] = sum of input[n, c] over the window of (y, x) / number of its positions

    The same as `torch.nn.functional.avg_pool2d`, to rounding. Images in channels_last, or some neighbouring channels
    of such, are pooled by a kernel of ours on the CPU; other images and devices by torch.

    Args:
        input: `[N, C, H, W]`; float32, float64, bfloat16 or float16.
        kernel_size: height and width of the windows.
        stride: steps between windows; default: `kernel_size`.
        padding: positions added on each side, at most half of the kernel.
        ceil_mode: whether a last window may reach over the end.
        count_include_pad: whether positions of the padding are counted.
        divisor_override: what sums are divided by instead of the count.

    Returns:
        `[N, C, H', W']` in the dtype and memory format of the input.

    Gradients:
        To `input`. A second derivative needs the reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank or size, naming the argument.

    Example:
        >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> avg_pool2d(image, 2)
        tensor([[[[ 2.5000,  4.5000],
                  [10.5000, 12.5000]]]])
    """
    checks.check_tensor("input", input, "[N, C, H, W]", (4,))
    kernel_size = spelt_out("kernel_size", kernel_size, 2, 1)
    stride = kernel_size if stride is None else spelt_out("stride", stride, 2, 1)
    padding = spelt_out("padding", padding, 2, 0)
    if 0 in input.shape[1:]:
        raise ValueError(f"input must have channels and positions, got {list(input.shape)}")
    for a in (0, 1):
        if padding[a] > kernel_size[a] // 2:
            raise ValueError(f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
        if kernel_size[a] > input.shape[a + 2] + 2 * padding[a]:
            raise ValueError(
                f"kernel_size {kernel_size} must fit into the padded input, {list(input.shape)} with padding {padding}"
            )
    if divisor_override is not None and divisor_override < 1:
        raise ValueError(f"divisor_override must be at least 1, got {divisor_override}")
    settings = kernel_size, stride, padding, ceil_mode, count_include_pad
    kernels = backend.kernels_for(input.device)
    if kernels is None:
        return reference.avg_pool2d(input, *settings, divisor_override)
    # A window over the whole image is a sum of rows, which torch makes as fast, and its call is shorter.
    whole = kernel_size == tuple(input.shape[2:]) and not any(padding)
    if kernels == "cpu" and has_channels_innermost(input) and not whole:
        output: Tensor = _operator.call(input, *settings, divisor_override or 0)
        return output
    return F.avg_pool2d(input, *settings, divisor_override)


def _output_size(input_size: int, kernel_size: int, stride: int, padding: int, ceil_mode: bool) -> int:
    room = input_size + 2 * padding - kernel_size
    size = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    return size - 1 if ceil_mode and (size - 1) * stride >= input_size + padding else size


def _fake(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int,
) -> Tensor:
    size = [_output_size(*axis, ceil_mode) for axis in zip(input.shape[2:], kernel_size, stride, padding)]
    return torch.empty(
        (*input.shape[:2], *size), dtype=input.dtype, device=input.device, memory_format=torch.channels_last
    )


def _fake_backward(
    grad: Tensor,
    height: int,
    width: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int,
) -> Tensor:
    shape = (*grad.shape[:2], height, width)
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)


def _forward(ctx: Any, *inputs: Any, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.avg_pool2d(*inputs)
    input, *ctx.settings = inputs
    ctx.size = input.shape[2:]
    return output


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _backward_operator(grad, *ctx.size, *ctx.settings), *(None,) * 6


_operator = differentiable("avg_pool2d", _forward, _backward)
_backward_operator = not_differentiable("avg_pool2d_backward")


@backend.on_load
def _register() -> None:
    register_fake("avg_pool2d", _fake)
    register_fake("avg_pool2d_backward", _fake_backward)
