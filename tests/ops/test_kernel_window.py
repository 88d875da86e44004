"""The weight of a smaller kernel: worked out entry by entry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kshot_ext import functional as KF


def by_entries(weight: Tensor, kernel_size: int, transforms: list[Tensor]) -> Tensor:
    for matrix in transforms:
        size = round(len(matrix) ** 0.5)
        margin = (weight.shape[-1] - size) // 2
        result = torch.zeros(*weight.shape[:-2], size, size, dtype=weight.dtype)
        for to in range(size * size):
            for source in range(size * size):
                tap = weight[..., margin + source // size, margin + source % size]
                result[..., to // size, to % size] += matrix[to, source] * tap
        weight = result
    margin = (weight.shape[-1] - kernel_size) // 2
    return weight[..., margin : margin + kernel_size, margin : margin + kernel_size]


@pytest.mark.parametrize("shape", [(4, 1, 7, 7), (2, 3, 2, 7, 7)])
@pytest.mark.parametrize(("kernel_size", "sizes"), [(7, ()), (5, ()), (1, ()), (5, (5,)), (3, (5, 3)), (3, (3,))])
def test_each_entry(shape: tuple, kernel_size: int, sizes: tuple) -> None:
    weight = torch.randn(shape, dtype=torch.float64)
    transforms = [torch.randn(size**2, size**2, dtype=torch.float64) for size in sizes]
    found = KF.kernel_window(weight, kernel_size, transforms)
    torch.testing.assert_close(found, by_entries(weight, kernel_size, transforms), rtol=1e-12, atol=1e-12)
    if not sizes:
        assert found.data_ptr() != 0
        assert found.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


def test_gradients() -> None:
    weight = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(9, 9, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda w, m: KF.kernel_window(w, 3, [m]), (weight, matrix))


@pytest.mark.parametrize(
    ("shape", "kernel_size", "matrices", "message"),
    [
        ((2, 1, 4, 4), 3, [], r"odd size, got \[2, 1, 4, 4\]"),
        ((2, 1, 3, 5), 3, [], "square kernels"),
        ((2, 1, 5, 5), 7, [], "odd and at most 5, the one before it, got 7"),
        ((2, 1, 5, 5), 2, [], "odd and at most 5, the one before it, got 2"),
        ((2, 1, 7, 7), 3, [(25, 25)], "last transform must be for kernel size 3, got one for 5"),
        ((2, 1, 7, 7), 3, [(9, 25)], r"a transform must be \[s \* s, s \* s\].*got \[9, 25\]"),
        ((2, 1, 7, 7), 5, [(9, 9), (25, 25)], "odd and at most 3, the one before it, got 5"),
    ],
)
def test_what_cannot_be_is_refused(shape: tuple, kernel_size: int, matrices: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KF.kernel_window(torch.zeros(shape), kernel_size, [torch.zeros(each) for each in matrices])
