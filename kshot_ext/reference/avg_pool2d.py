"""Average pooling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def avg_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average the windows of an image.

        output[n, c, y, x] = sum of input[n, c] over the window of (y, x) / number of its positions

    Args:
        input: `[N, C, H, W]`.
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: as in
            `torch.nn.functional.avg_pool2d`.

    Returns:
        `[N, C, H', W']`.

    Example:
        >>> avg_pool2d(torch.arange(4.0).reshape(1, 1, 2, 2), 2)
        tensor([[[[1.5000]]]])
    """
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    output = F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return output.to(input.dtype)
