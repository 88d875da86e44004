"""The weight of a smaller kernel, taken out of a larger one's: its centre, by way of matrices that may be learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def kernel_window(
    weight: Tensor,
    kernel_size: int,
    transforms: Sequence[Tensor] = (),
) -> Tensor:
    """The weight of a smaller kernel, as the centre of a larger one's, by way of matrices.

        W_0 = weight,    W_t[c] = M_t vec(centre(W_{t-1}[c], s_t)),    result = centre(W_T, kernel_size)

    where M_t is `[s_t^2, s_t^2]`, c counts everything but the kernel, and vec goes row by row.

    Args:
        weight: `[..., S, S]`.
        kernel_size: side of the result.
        transforms: the matrices M_t, from the largest s_t down.

    Returns:
        `[..., kernel_size, kernel_size]`.

    Example:
        >>> import torch
        >>> kernel_window(torch.arange(9.0).reshape(3, 3), 1, [2 * torch.eye(9)])
        tensor([[8.]])
    """
    for matrix in transforms:
        size = math.isqrt(matrix.shape[0])
        weight = F.linear(_centre(weight, size).flatten(-2), matrix).unflatten(-1, (size, size))
    return _centre(weight, kernel_size)


def _centre(weight: Tensor, size: int) -> Tensor:
    start = weight.shape[-1] // 2 - size // 2
    return weight[..., start : start + size, start : start + size]
