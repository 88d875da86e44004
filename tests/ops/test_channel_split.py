"""Even and odd channels as tensors of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kshot_ext.ops.channel_split import even_and_odd_channels

IMAGES = torch.arange(2 * 6 * 3 * 4.0).reshape(2, 6, 3, 4)
IN_CHANNELS_LAST = IMAGES.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("image", [IMAGES, IN_CHANNELS_LAST], ids=["contiguous", "channels_last"])
def test_even_and_odd_channels(image: Tensor) -> None:
    """Exactly the slices, and a gradient in the order of the image."""
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    parts = even_and_odd_channels(image)
    assert torch.equal(parts[0], image[:, ::2])
    assert torch.equal(parts[1], image[:, 1::2])
    memory_format = (
        torch.channels_last if image is not IMAGES and not image.is_contiguous() else torch.contiguous_format
    )
    assert all(part.is_contiguous(memory_format=memory_format) for part in parts)
    (2 * parts[0].sum() + (parts[1] * parts[1]).sum()).backward()
    expected = torch.where(torch.arange(6).reshape(1, 6, 1, 1) % 2 == 0, 2.0, 2 * image.detach())
    assert torch.equal(image.grad, expected)
    assert image.grad.is_contiguous(memory_format=memory_format)


def test_even_and_odd_channels_under_transforms() -> None:
    image = IMAGES.double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: even_and_odd_channels(x**3), image)
    gradient = torch.func.grad(lambda x: even_and_odd_channels(x)[1].sum())(IMAGES)
    assert torch.equal(gradient, torch.arange(6).reshape(1, 6, 1, 1).remainder(2).expand_as(IMAGES).float())


def test_what_is_traced_is_sliced() -> None:
    class Split(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return even_and_odd_channels(x)[1]

    traced = torch.fx.symbolic_trace(Split())
    assert "[(slice(None, None, None), slice(1, None, 2))]" in traced.code
    assert torch.equal(traced(IMAGES), IMAGES[:, 1::2])
