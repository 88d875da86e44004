"""Average pooling: output[n, c, y, x] = sum of a window of input[n, c] / number of its positions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def avg_pool2d(
    input: Tensor,  # [N, C, H, W]
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:  # [N, C, H', W']
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    output = F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return output.to(input.dtype)
