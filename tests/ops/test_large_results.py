"""Results larger than the caches take other stores than small ones: the same values must come out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kshot_ext import functional as KF

LARGE = (2, 48, 108, 108)  # 4.5 MB in float32: beyond the 4 MB from which stores pass the caches
UNEVEN = (2, 50, 108, 108)  # rows of channels that do not begin at whole vectors


def _leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    images = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
    return [image.requires_grad_() for image in images]


def _check(ours, torchs, leaves: list[torch.Tensor]) -> None:
    output, expected = ours(*leaves), torchs(*leaves)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    grad = grad.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    for ours_grad, torch_grad in zip(
        torch.autograd.grad(output, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(ours_grad, torch_grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("shape", [LARGE, UNEVEN])
@pytest.mark.parametrize("kernel", [1, 3])
def test_dense(shape, kernel):
    channels = shape[1]

    def ours(input, weight):
        code = torch.ones(1)
        return KF.kshot_conv2d(input, weight[None], code, None, 1, kernel // 2, algorithm="fused")

    _check(
        ours, lambda x, w: F.conv2d(x, w, None, 1, kernel // 2), _leaves(shape, (channels, channels, kernel, kernel))
    )


@pytest.mark.parametrize("shape", [LARGE, UNEVEN])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (7, 2), (3, 2)])
def test_depthwise(shape, kernel, stride):
    channels = shape[1]

    def ours(input, weight):
        code = torch.ones(1)
        return KF.kshot_conv2d(input, weight[None], code, None, stride, kernel // 2, 1, channels, algorithm="fused")

    def torchs(input, weight):
        return F.conv2d(input, weight, None, stride, kernel // 2, 1, channels)

    _check(ours, torchs, _leaves(shape, (channels, 1, kernel, kernel)))


@pytest.mark.parametrize("shape", [LARGE, UNEVEN])
def test_batch_norm(shape):
    channels = shape[1]

    def ours(input, weight, bias, residual):
        return KF.batch_norm_act(input, weight, bias, None, None, activation="silu", residual=residual)

    def torchs(input, weight, bias, residual):
        return F.silu(F.batch_norm(input, None, None, weight, bias, training=True) + residual)

    _check(ours, torchs, _leaves(shape, (channels,), (channels,), shape))
