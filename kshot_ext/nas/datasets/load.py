"""A source's images into memory: choose a subset, divide it, decode it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import Augmentation
from kshot_ext.nas.datasets.decode import bytes_to_scale, fit_square
from kshot_ext.nas.datasets.memory import check_memory
from kshot_ext.nas.datasets.source import DataError, ImageSource, Part
from kshot_ext.nas.datasets.splits import DataSplits, ImageSet, channel_statistics

HELD_OUT_SHARES: Mapping[Part, float] = {Part.VALIDATION: 0.2, Part.TEST: 0.2}
"""Share of the training images split off for each part, where the source has none."""


def load_splits(
    source: ImageSource,
    *,
    generator: torch.Generator,
    max_images: int | None = None,
    image_size: int | None = None,
    held_out: Mapping[Part, float] = HELD_OUT_SHARES,
    on_image: Callable[[int, int], None] | None = None,
) -> DataSplits:
    """Decode a source into training, validation and test images.

    A part that the source lacks is split off its training images, the same share of every class. Parts that
    ``held_out`` does not name are left out, and empty in the result.

    Args:
        source: what to load.
        generator: decides the subset and the division.
        max_images: most images to use, the same share of every class; default all.
        image_size: side in pixels to which every image is scaled and cut; default: as they are.
        held_out: share of the training images to split off for each part, where the source has none.
        on_image: called after each image with the number done and their total.

    Raises:
        DataError: if a class gets no image in some part, an image is damaged, sizes differ without
            ``image_size``, all images of a part are the same, or the images do not fit into memory.
    """
    parts = torch.tensor([list(Part).index(part) for part in source.parts])
    wanted = [index for index, part in enumerate(Part) if part is Part.TRAIN or part in held_out]
    chosen = _choose(source.labels, parts, wanted, max_images, generator)
    labels, parts = source.labels[chosen], parts[chosen]
    parts = _divide(labels, parts, held_out, generator)
    _check_every_class_in_every_part(labels, parts, wanted, source, held_out)
    images = ImageSet(_decode(source, chosen.tolist(), image_size, on_image), labels)
    train, validation, test = (images.subset((parts == part).nonzero()[:, 0]) for part in range(len(Part)))
    for part, held in zip(Part, (train, validation, test)):
        _check_not_constant(held.images, f"{source.name}: {part.value} part")
    mean, std = channel_statistics(train.images)
    augmentation = suitable_augmentation(train.images)
    return DataSplits(train, validation, test, source.class_names, mean, std, augmentation, source.notes)


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


def _choose(
    labels: Tensor, parts: Tensor, wanted: list[int], max_images: int | None, generator: torch.Generator
) -> Tensor:
    usable = torch.isin(parts, torch.tensor(wanted)).nonzero()[:, 0]
    if max_images is None or max_images >= len(usable):
        return usable
    quantiles = _group_quantiles((labels * len(Part) + parts)[usable], generator)
    return usable[quantiles.argsort(stable=True)[:max_images].sort().values]


def _divide(labels: Tensor, parts: Tensor, held_out: Mapping[Part, float], generator: torch.Generator) -> Tensor:
    in_train = (parts == list(Part).index(Part.TRAIN)).nonzero()[:, 0]
    quantiles = _group_quantiles(labels[in_train], generator)
    divided = parts.clone()
    start = 0.0
    for part, share in held_out.items():
        index = list(Part).index(part)
        if not (parts == index).any():
            divided[in_train[(quantiles >= start) & (quantiles < start + share)]] = index
            start += share
    return divided


def _check_every_class_in_every_part(
    labels: Tensor, parts: Tensor, wanted: list[int], source: ImageSource, held_out: Mapping[Part, float]
) -> None:
    for label, name in enumerate(source.class_names):
        present = parts[labels == label]
        for index in wanted:
            part = list(Part)[index]
            if (present == index).any():
                continue
            if part in held_out and part not in source.parts:
                reason = f"too few for a {part.value} part, which gets a share of {held_out[part]:g} of each class"
            else:
                reason = f"none of them in the {part.value} part"
            raise DataError(f"{source.name}: class {name!r}: {len(present)} images used, {reason}")


def _check_not_constant(images: Tensor, name: str) -> None:
    if len(images) > 1 and bool((images == images[0]).all()):
        raise DataError(f"{name}: expected images that differ, got {len(images)} times the same one")


def _decode(
    source: ImageSource,
    indices: list[int],
    image_size: int | None,
    on_image: Callable[[int, int], None] | None,
) -> Tensor:
    """The images one by one into one tensor, ``[N, C, H, W]``: grey ones as colour if any has colour."""
    images = torch.empty(0, 0, 0, 0, dtype=torch.uint8)
    if image_size is not None:
        check_memory(source.name, 2 * len(indices) * image_size**2 + bytes_to_scale(image_size))
    for position, index in enumerate(indices):
        image = source.read(index)
        image = image if image_size is None else fit_square(image, image_size)
        if position == 0:
            images = _room(source.name, len(indices), image)
        elif image.shape[1:] != images.shape[2:]:
            sizes = " and ".join(str(tuple(size)) for size in (images.shape[2:], image.shape[1:]))
            names = " and ".join(source.describe(other) for other in (indices[0], index))
            raise DataError(f"{names}: expected one size, got (height, width) {sizes}; set an image size")
        elif len(image) > images.shape[1]:
            grey, images = images[:position], _room(source.name, len(indices), image)
            images[:position] = grey
        images[position] = image
        if on_image is not None:
            on_image(position + 1, len(indices))
    return images


def _room(name: str, count: int, image: Tensor) -> Tensor:
    """An empty tensor for so many images like this one."""
    check_memory(name, 2 * count * image.numel())  # once as they are read, once more when they are divided
    return image.new_empty(count, *image.shape)
