"""More samples than kernels take at a time: dense ones with codes per sample, in full groups and some left over; and
depthwise ones, of which one task takes several after each other."""

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


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "dilation"),
    [
        # No taller than the kernel: all rows of a sample stay in the ring, where those of the next one come.
        (4, 4, 5, 1),
        (20, 3, 3, 1),
        (24, 2, 3, 1),
        (3, 7, 5, 2),
        (64, 7, 7, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_depthwise_samples_do_not_see_each_other(
    instruction_set: str, dtype: torch.dtype, channels: int, size: int, kernel: int, dilation: int
) -> None:
    """64 samples on one thread: 4 tasks of 16 forward, 8 of 8 backward."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    input = leaf(64, channels, size, size).contiguous(memory_format=torch.channels_last)
    leaves = (input, leaf(2, channels, 1, kernel, kernel), torch.tensor([0.3, 0.7]))
    options = {"padding": dilation * (kernel // 2), "dilation": dilation, "groups": channels}
    grad = leaf(64, channels, size, size)

    def outcome(function, tensors: tuple[torch.Tensor, ...], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = tuple(tensor.detach().requires_grad_() for tensor in tensors)
        output = function(*tensors, **options)
        return output.detach(), *torch.autograd.grad(output, tensors, grad)

    actual = outcome(KF.kshot_conv2d, leaves, grad)
    expected = outcome(reference.kshot_conv2d, tuple(tensor.double() for tensor in leaves), grad.double())
    for ours, theirs in zip(actual, expected, strict=True):
        scale = theirs.abs().max()
        assert (ours.double() - theirs).abs().max() <= 16 * torch.finfo(dtype).eps * scale
