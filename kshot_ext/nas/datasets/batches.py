"""Batches of normalised images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import Augmentation
from kshot_ext.nas.datasets.splits import ImageSet


def batches(
    images: ImageSet,
    batch_size: int,
    *,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator | None = None,
    augment: Augmentation | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every image once, as ``(image / 255 - mean) / std``.

    Args:
        images: what to go through.
        batch_size: images per batch, at least 1; the last batch may be smaller.
        mean, std: float32 ``[C]``.
        generator: shuffles (and augments) when given; without it the order is that of the set.
        augment: random variation of each batch; needs ``generator``.
        drop_last: leave out a smaller last batch; default False.

    Yields:
        float32 ``[B, C, H, W]`` (channels_last) and int64 ``[B]``.

    Raises:
        ValueError: if ``batch_size`` is below 1, or ``augment`` comes without ``generator``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
    if augment is not None and generator is None:
        raise ValueError("augment: random variation needs a generator, got None")
    return _generate(images, batch_size, mean, std, generator, augment, drop_last)


def _generate(
    images: ImageSet,
    batch_size: int,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator | None,
    augment: Augmentation | None,
    drop_last: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.arange(len(images)) if generator is None else torch.randperm(len(images), generator=generator)
    scale = (1 / (255 * std))[:, None, None]
    shift = (mean / std)[:, None, None]
    for indices in order.split(batch_size):
        if drop_last and len(indices) < batch_size:
            return
        chosen = images.images[indices]
        if augment is not None and generator is not None:
            chosen = augment(chosen, generator)
        normalised = chosen.to(torch.float32, memory_format=torch.channels_last) * scale - shift
        yield normalised, images.labels[indices]
