"""A source's images into memory: choose a subset, divide it, decode it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kshot_ext.nas.augmentation import Augmentation
from kshot_ext.nas.data import DataSplits, ImageSet, channel_statistics
from kshot_ext.nas.datasets.decode import fit_square
from kshot_ext.nas.datasets.memory import check_memory
from kshot_ext.nas.datasets.source import DataError, ImageSource, Part

HELD_OUT_SHARE = 0.2
"""Share of the training images split off for each of validation and test, where the source has none."""


def load_splits(
    source: ImageSource,
    *,
    generator: torch.Generator,
    max_images: int | None = None,
    image_size: int | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> DataSplits:
    """Decode a source into training, validation and test images.

    A part that the source lacks is split off its training images, the same share of every class.

    Args:
        source: what to load.
        generator: decides the subset and the division.
        max_images: most images to use, the same share of every class; default all.
        image_size: side in pixels to which every image is scaled and cut; default: as they are.
        on_image: called after each image with the number done and their total.

    Raises:
        DataError: if a class gets no image in some part, an image is damaged, sizes differ without
            ``image_size``, or the images do not fit into memory.
    """
    parts = torch.tensor([list(Part).index(part) for part in source.parts])
    chosen = _choose(source.labels, parts, max_images, generator)
    labels, parts = source.labels[chosen], parts[chosen]
    parts = _divide(labels, parts, generator)
    _check_every_class_in_every_part(labels, parts, source)
    images = ImageSet(_decode(source, chosen.tolist(), image_size, on_image), labels)
    train, validation, test = (images.subset((parts == part).nonzero()[:, 0]) for part in range(len(Part)))
    mean, std = channel_statistics(train.images)
    augmentation = suitable_augmentation(train.images)
    return DataSplits(train, validation, test, source.class_names, mean, std, augmentation)


def suitable_augmentation(images: Tensor) -> Augmentation:
    """Return crops by an eighth of the side; flips for colour only (a mirrored digit is no digit)."""
    channels, height, width = images.shape[1:]
    return Augmentation(padding=max(1, min(height, width) // 8), horizontal_flip=channels == 3)


def _group_quantiles(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Give the members of each group, in random order, the evenly spread ranks 1/2n, 3/2n, ..."""
    order = torch.randperm(len(groups), generator=generator)
    quantiles = torch.empty(len(groups), dtype=torch.float64)
    for group in groups.unique():
        members = order[groups[order] == group]
        quantiles[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return quantiles


def _choose(labels: Tensor, parts: Tensor, max_images: int | None, generator: torch.Generator) -> Tensor:
    if max_images is None or max_images >= len(labels):
        return torch.arange(len(labels))
    quantiles = _group_quantiles(labels * len(Part) + parts, generator)
    return quantiles.argsort(stable=True)[:max_images].sort().values


def _divide(labels: Tensor, parts: Tensor, generator: torch.Generator) -> Tensor:
    train, *held_out = range(len(Part))
    in_train = (parts == train).nonzero()[:, 0]
    quantiles = _group_quantiles(labels[in_train], generator)
    divided = parts.clone()
    missing = [part for part in held_out if not (parts == part).any()]
    for position, part in enumerate(missing):
        start = position * HELD_OUT_SHARE
        divided[in_train[(quantiles >= start) & (quantiles < start + HELD_OUT_SHARE)]] = part
    return divided


def _check_every_class_in_every_part(labels: Tensor, parts: Tensor, source: ImageSource) -> None:
    for label, name in enumerate(source.class_names):
        present = parts[labels == label]
        for index, part in enumerate(Part):
            if not (present == index).any():
                expected = f"too few for a {part.value} part (4 or more divide well)"
                raise DataError(f"{source.name}: class {name!r}: {len(present)} images used, {expected}")


def _decode(
    source: ImageSource,
    indices: list[int],
    image_size: int | None,
    on_image: Callable[[int, int], None] | None,
) -> Tensor:
    images: list[Tensor] = []
    for done, index in enumerate(indices, start=1):
        image = source.read(index)
        image = image if image_size is None else fit_square(image, image_size)
        if not images:
            check_memory(source.name, len(indices) * image.numel())
        elif image.shape[1:] != images[0].shape[1:]:
            sizes = " and ".join(f"{tuple(size.shape[1:])}" for size in (images[0], image))
            names = " and ".join(source.describe(other) for other in (indices[0], index))
            raise DataError(f"{names}: expected one size, got (height, width) {sizes}; set an image size")
        images.append(image)
        if on_image is not None:
            on_image(done, len(indices))
    channels = max(len(image) for image in images)
    return torch.stack([image.expand(channels, -1, -1) for image in images])
