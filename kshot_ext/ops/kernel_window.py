"""The weight of a smaller kernel out of a larger one's. It is small: torch's operators serve every device."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from kshot_ext import reference


def kernel_window(weight: Tensor, kernel_size: int, transforms: Sequence[Tensor] = ()) -> Tensor:
    """The weight of a smaller kernel, as a part of a larger one's: its centre, by way of matrices.

        W_0 = weight,    W_t[c] = M_t vec(centre(W_{t-1}[c], s_t)),    result = centre(W_T, kernel_size)

    Args:
        weight: `[..., S, S]`, a plain weight or a dictionary; S is odd.
        kernel_size: odd, at most S.
        transforms: the matrices M_t, `[s_t * s_t, s_t * s_t]`, from the largest s_t to `kernel_size`; default: none,
            which leaves the centre as it is.

    Returns:
        `[..., kernel_size, kernel_size]`; without matrices a view.

    Gradients:
        To `weight` and `transforms`, any number of times.

    Raises:
        ValueError: if a size is even, or larger than the one before it, or a matrix is not square.

    Example:
        >>> import torch
        >>> kernel_window(torch.arange(25.0).reshape(1, 1, 5, 5), 3).flatten()
        tensor([ 6.,  7.,  8., 11., 12., 13., 16., 17., 18.])

    Paper: kernel transformation matrices of once-for-all, arXiv 1908.09791.
    """
    height, width = weight.shape[-2:]
    if height != width or width % 2 == 0:
        raise ValueError(f"weight must have square kernels of odd size, got {list(weight.shape)}")
    sizes = [_size_of(matrix) for matrix in transforms]
    if sizes and sizes[-1] != kernel_size:
        raise ValueError(f"the last transform must be for kernel size {kernel_size}, got one for {sizes[-1]}")
    for before, size in zip([width, *sizes], [*sizes, kernel_size]):
        if size % 2 == 0 or not 1 <= size <= before:
            raise ValueError(f"a kernel size must be odd and at most {before}, the one before it, got {size}")
    return reference.kernel_window(weight, kernel_size, transforms)


def _size_of(matrix: Tensor) -> int:
    size = math.isqrt(matrix.shape[0])
    if list(matrix.shape) != [size * size, size * size]:
        raise ValueError(f"a transform must be [s * s, s * s] for a kernel size s, got {list(matrix.shape)}")
    return size
