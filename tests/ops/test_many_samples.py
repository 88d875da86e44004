"""Codes per sample with more samples than the dense kernels take at a time: some in full groups, some left over."""

from __future__ import annotations

import pytest
import torch

from kshot_ext import functional as KF
from kshot_ext import reference

BATCH = 6  # a group of four, and two


@pytest.mark.parametrize(("out_channels", "in_channels"), [(36, 20), (20, 70), (3, 5)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_matches_reference(instruction_set: str, out_channels, in_channels, kernel, stride, memory_format):
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    input, code = leaf(BATCH, in_channels, 7, 6), leaf(BATCH, 3)
    copies = leaf(3 * out_channels, in_channels, kernel, kernel)
    weight = copies.contiguous(memory_format=memory_format).unflatten(0, (3, out_channels))
    leaves = (input, copies, code)

    output = KF.kshot_conv2d(input, weight, code, None, stride, kernel // 2, algorithm="fused")
    exact = [tensor.double() for tensor in (input, weight, code)]
    expected = reference.kshot_conv2d(*exact, None, stride, kernel // 2).float()
    grad = torch.randn(output.shape, generator=generator)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(
        torch.autograd.grad(output, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
