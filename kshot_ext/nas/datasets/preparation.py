"""What is done to images between their source and a network: how they are normalised, and varied while training."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import Augmentation, RandomOperations, VaryImage
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.settings import AugmentationSettings, ImageSettings
from kshot_ext.nas.datasets.source import DataError
from kshot_ext.nas.datasets.splits import DataSplits, channel_statistics
from kshot_ext.nas.datasets.streamed import Images

_FEW, _MEASURED = 16, 2048
_COMPARED = 64
_MOST_BYTES = 2**26  # of images that are looked at
_NUMERALS = frozenset(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])


def image_statistics(train: Images, settings: ImageSettings) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that images are normalised by, float32 ``[C]`` each.

    Those of the settings; else measured on the training images, on some of them if they are streamed. Images of
    floating point come as their transform made them, and are left so: 0 and 1.

    Raises:
        DataError: if the settings do not fit the images.
    """
    channels = train.image_shape[0]
    try:
        given = settings.statistics(channels)
    except ValueError as error:
        raise DataError(str(error)) from error
    if given is not None:
        return given
    some = _some(train, _MEASURED)
    if some.images.dtype != torch.uint8:
        return torch.zeros(channels), torch.ones(channels)
    return channel_statistics(some.images)


def check_not_constant(images: Images, name: str) -> None:
    """Raise `DataError` if all images are the same one; of streamed images some are looked at."""
    pixels = _some(images, _COMPARED).images
    if len(pixels) > 1 and bool((pixels == pixels[0]).all()):
        raise DataError(f"{name}: expected images that differ, got {len(pixels)} times the same one")


def suitable_augmentation(splits: DataSplits, transformed: bool, settings: AugmentationSettings) -> DataSplits:
    """The same images with the variation that the settings name, and what is to be said of it.

    Where they leave it open: crops by an eighth of the side; flips for colour only, and not of digits and letters,
    which mirrored are none any more; and neither where the data has transforms of its own.

    Args:
        splits: images and their statistics.
        transformed: whether they pass through transforms of their own.
        settings: what is set.

    Raises:
        DataError: if it is not for such images or targets.
        MissingExtraError: if it needs torchvision, which is not installed.
    """
    channels, height, width = splits.image_shape
    numbered = splits.task.has_classes and _are_characters(splits.class_names)
    notes: tuple[str, ...] = ()
    if numbered and channels == 3 and settings.flip is None and not transformed:
        some = ", ".join(splits.class_names[:3])
        notes = (
            f"training images are not mirrored, as classes are called {some}; augmentation.flip = true mirrors them",
        )
    eighth = 0 if transformed else max(1, min(height, width) // 8)
    if settings.mixup > 0 and not splits.task.has_classes:
        raise DataError(
            f"augmentation.mixup: expected 0, as it mixes classes, and there are none in {splits.task.name}"
        )
    made = Augmentation(
        padding=eighth if settings.crop is None else settings.crop,
        horizontal_flip=channels == 3 and not numbered and not transformed if settings.flip is None else settings.flip,
        vary=_variation(splits, settings),
        mixup=settings.mixup,
        num_classes=splits.num_classes if settings.mixup > 0 else 0,
    )
    return replace(splits, augmentation=made, notes=(*splits.notes, *notes))


def _variation(splits: DataSplits, settings: AugmentationSettings) -> VaryImage | None:
    if not settings.rand_augment and not settings.erasing:
        return None
    channels = splits.image_shape[0]
    pixels = _some(splits.train, 1).images
    whole = pixels.dtype == torch.uint8
    if settings.rand_augment and (not whole or channels not in (1, 3)):
        raise DataError(
            "augmentation.rand_augment: expected 0, as it is for grey or colour images of whole numbers, got "
            f"{channels} channels of {pixels.dtype}"
        )
    colour = tuple(round(float(value) * 255) if whole else float(value) for value in splits.mean)
    return RandomOperations(settings.rand_augment, settings.rand_augment_magnitude, settings.erasing, colour)


def _are_characters(names: tuple[str, ...]) -> bool:
    """Whether classes are called by single characters, numbers or numerals."""
    return all(len(name) == 1 or name.isdecimal() or name.lower() in _NUMERALS for name in names)


def _some(images: Images, most: int) -> ImageSet:
    """Images spread over a set, in memory; all of them if they are there anyway."""
    if isinstance(images, ImageSet):
        return images
    most = min(most, len(images), max(_MOST_BYTES // math.prod(images.image_shape), _FEW))
    return images.subset(torch.linspace(0, len(images) - 1, most).long()).in_memory()
