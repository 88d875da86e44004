"""Batches of normalised images."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import Augmentation
from kshot_ext.nas.datasets.streamed import Images


def batches(
    images: Images,
    batch_size: int,
    *,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator | None = None,
    augment: Augmentation | None = None,
    drop_last: bool = False,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield every image once, as ``(image / 255 - mean) / std``; one of floating point as ``(image - mean) / std``.

    Args:
        images: what to go through, in memory or streamed.
        batch_size: images per batch, at least 1; the last batch may be smaller.
        mean, std: ``[C]``, float32, or what the batches are to be.
        generator: shuffles (and augments) when given; without it the order is that of the set.
        augment: random variation of each batch; needs ``generator``.
        drop_last: leave out a smaller last batch; default False.

    Yields:
        ``[B, C, H, W]`` of that dtype (channels_last), and targets as they are kept; where ``augment`` mixes classes,
        probabilities ``[B, num_classes]``.

    Raises:
        ValueError: if ``batch_size`` is below 1, or ``augment`` comes without ``generator``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
    if augment is not None and generator is None:
        raise ValueError("augment: random variation needs a generator, got None")
    return _generate(images, batch_size, mean, std, generator, augment, drop_last)


def _generate(
    images: Images,
    batch_size: int,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator | None,
    augment: Augmentation | None,
    drop_last: bool,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    order = torch.arange(len(images)) if generator is None else torch.randperm(len(images), generator=generator)
    chunks = [chunk for chunk in order.split(batch_size) if not drop_last or len(chunk) == batch_size]
    vary = None if augment is None else augment.vary
    training = generator is not None
    seeds = None
    if generator is not None and (images.varies or vary is not None):
        seeds = torch.randint(2**32, (len(images),), generator=generator)
    reading = images.read(chunks, seeds=seeds, vary=vary, training=training)
    with closing(reading):  # workers end with this generator, not when memory is next tidied
        yield from _normalised(reading, mean, std, augment, generator)


def _normalised(
    reading: Iterable[tuple[Tensor, Tensor]],
    mean: Tensor,
    std: Tensor,
    augment: Augmentation | None,
    generator: torch.Generator | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    shift = (mean / std)[:, None, None]
    untouched = not mean.any() and bool((std == 1).all())
    for chosen, labels in reading:
        if augment is not None and generator is not None:
            chosen = augment(chosen, generator)
        normalised = chosen.to(mean.dtype, memory_format=torch.channels_last)
        if not (chosen.is_floating_point() and untouched):
            white = 1 if chosen.is_floating_point() else 255
            normalised.mul_((1 / (white * std))[:, None, None]).sub_(shift)  # a batch is a copy anyway
        if augment is not None and generator is not None:
            normalised, labels = augment.mix(normalised, labels, generator)
        yield normalised, labels
