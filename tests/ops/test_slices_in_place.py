"""Slices of a single weight, whose code is one: the CPU's dense kernels read them where they lie."""

from __future__ import annotations

import pytest
import torch
from allocations import allocations
from torch import Tensor
from torch.nn import functional as F

from kshot_ext import functional as KF

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
SLICES = pytest.mark.parametrize(("inputs", "outputs"), [(40, 33), (40, 48), (24, 33), (1, 1)])
FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


def operands(kernel: int, inputs: int, memory_format: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Images, and a weight `[48, 40, k, k]`."""
    images = torch.randn(2, inputs, 6, 5).to(memory_format=torch.channels_last)
    return images, torch.randn(48, 40, kernel, kernel).to(memory_format=memory_format)


@FORMATS
@SLICES
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_values_and_gradients(kernel: int, inputs: int, outputs: int, memory_format, factor: float) -> None:
    leaves = [each.requires_grad_() for each in operands(kernel, inputs, memory_format)]
    images, weight = leaves
    found = KF.kshot_conv2d(
        images, weight[None], torch.tensor([factor]), padding=1, out_channels=outputs, algorithm="fused"
    )
    wanted = F.conv2d(images.double(), factor * weight[:outputs, :inputs].double(), padding=1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)
    upstream = torch.randn_like(found)
    gradients = torch.autograd.grad(found, leaves, upstream)
    expected = torch.autograd.grad(wanted, leaves, upstream.double())
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-3)


@FORMATS
@SLICES
def test_links_of_chains(inputs: int, outputs: int, memory_format) -> None:
    leaves = [each.requires_grad_() for each in operands(1, inputs, memory_format)]
    images, weight = leaves
    raw, mean, variance = KF.chained_conv2d(images, weight[None], torch.ones(1), out_channels=outputs)
    wanted = F.conv2d(images.double(), weight[:outputs, :inputs].double())
    torch.testing.assert_close(raw.double(), wanted, rtol=1e-5, atol=1e-4)
    upstream = torch.randn_like(raw)
    gradients = torch.autograd.grad((raw * upstream).sum() + mean.sum() + variance.sum(), leaves)
    spread, middle = torch.var_mean(wanted, (0, 2, 3), correction=0)
    expected = torch.autograd.grad((wanted * upstream.double()).sum() + middle.sum() + spread.sum(), leaves)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("outputs", [512, 320])
def test_nothing_is_copied(outputs: int) -> None:
    images = torch.randn(2, 384, 3, 3).to(memory_format=torch.channels_last)
    weight, code = torch.randn(1, 512, 512, 1, 1), torch.ones(1)

    def taken(code: Tensor) -> int:
        return sum(allocations(lambda: KF.kshot_conv2d(images, weight, code, out_channels=outputs, algorithm="fused")))

    output = 2 * outputs * 9 * 4
    assert taken(code) < output + 4096
    assert taken(0.5 * code) >= output + outputs * 384 * 4  # which must be mixed
