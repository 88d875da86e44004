"""Even and odd channels as tensors of their own."""

from __future__ import annotations

import pytest
import torch
from calls import DTYPES
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 2, 1, 3), (3, 74, 5, 2), (0, 4, 2, 2)], ids=str)
def test_channels_of_every_type_and_instruction_set(
    instruction_set: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """By our kernel, exactly, with rests of every vector width."""
    image = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
    even, odd = even_and_odd_channels(image)
    assert type(even.grad_fn).__name__ == "kshot_ext_even_and_odd_channelsBackward"
    assert torch.equal(even, image[:, ::2])
    assert torch.equal(odd, image[:, 1::2])
    of_even, of_odd = image.detach()[:, 1::2], -image.detach()[:, ::2]  # one laid out otherwise
    gradient = torch.autograd.grad((even, odd), image, (of_even, of_odd.contiguous()))[0]
    assert torch.equal(gradient[:, ::2], of_even)
    assert torch.equal(gradient[:, 1::2], of_odd)


def test_large_images_are_cut_among_threads() -> None:
    torch.set_num_threads(3)
    image = torch.randn(5, 48, 41, 33).contiguous(memory_format=torch.channels_last).requires_grad_()
    even, odd = even_and_odd_channels(image)
    assert torch.equal(even, image[:, ::2])
    assert torch.equal(odd, image[:, 1::2])
    assert torch.equal(torch.autograd.grad((even, odd), image, (even.detach(), odd.detach()))[0], image)


def test_second_derivatives_in_channels_last() -> None:
    image = IN_CHANNELS_LAST.double().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: even_and_odd_channels(x**3), image)


def test_raw_operators_check_what_they_are_given() -> None:
    with pytest.raises(RuntimeError, match="even number of channels"):
        torch.ops.kshot_ext.even_and_odd_channels(torch.zeros(2, 3, 4, 4))
    with pytest.raises(RuntimeError, match="alike in device, dtype and shape"):
        torch.ops.kshot_ext.even_and_odd_channels_backward(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))


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
