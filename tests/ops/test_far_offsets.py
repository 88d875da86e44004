"""Copies that begin beyond 2^31 elements: the dictionary is never touched but where the call reads it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kshot_ext import functional as KF


@pytest.fixture
def far() -> Tensor:
    """Three copies of 2^30 elements each, of which few pages are in memory."""
    try:
        weight = torch.empty(3, 2**15, 2**15, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"this machine promises no 6 GiB of memory: {error}")
    assert 2 * weight.stride(0) == 2**31
    weight[:, :4, :37] = torch.randn(3, 4, 37, generator=torch.Generator().manual_seed(0))
    return weight


@pytest.mark.parametrize("in_channels", [5, 37])
@pytest.mark.parametrize("code", [[0.5, -1.0, 2.0], [[0.5, -1.0, 2.0], [1.0, 0.0, 3.0]]], ids=["shared", "per_sample"])
def test_mixing_reads_the_copies_where_they_are(far: Tensor, code: list, in_channels: int) -> None:
    mixed = KF.effective_weight(far, torch.tensor(code), out_channels=4, in_channels=in_channels)
    expected = torch.einsum("...k,koi->...oi", torch.tensor(code).double(), far[:, :4, :in_channels].double())
    torch.testing.assert_close(mixed.double(), expected, rtol=2**-7, atol=2**-7)


def test_the_gradient_of_the_code_reads_them_too(far: Tensor) -> None:
    code = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    mixed = KF.effective_weight(far, code, out_channels=4, in_channels=37)
    grad = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1)).to(mixed.dtype)
    (found,) = torch.autograd.grad(mixed, code, grad)
    expected = torch.einsum("oi,koi->k", grad.double(), far[:, :4, :37].double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
