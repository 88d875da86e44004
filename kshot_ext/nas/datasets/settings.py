"""Settings of how images are kept, normalised and varied."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_ext.nas.checks import check_between, check_one_of

_KEPT = ("auto", "memory", "stream")
_MOST_WORKERS = 4


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How images are read, kept and normalised.

    Args:
        keep: ``memory``: all are decoded once, before the run; ``stream``: workers decode them anew whenever they are
            used, so that their number does not matter; ``auto``: in memory, unless they do not fit or pass through a
            transform.
        workers: processes that read images for ``stream``; 0 to read in the run's own process. None for one less than
            the cores, but at least 1 and at most 4. Results do not depend on it.
        mean: of each channel, in shares of white, such as ``0.485,0.456,0.406``, or one number for all; None to measure
            it on training images. Images of floating point are left as they are by default.
        std: standard deviation of each channel, written alike; None to measure it.

    Raises:
        ValueError: if a value is out of range.
    """

    keep: str = "auto"
    workers: int | None = None
    mean: str | None = None
    std: str | None = None

    def __post_init__(self) -> None:
        check_one_of("keep", self.keep, _KEPT)
        if self.workers is not None:
            check_between("workers", self.workers, 0, 1025)
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{missing}: expected numbers beside {given}, got none")
        self.statistics(None)

    @property
    def worker_count(self) -> int:
        """How many workers there are, whether that was set or not."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(max(cores - 1, 1), _MOST_WORKERS)

    def statistics(self, channels: int | None) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation as set, float32 ``[channels]`` each; None if they are to be measured.

        Args:
            channels: of the images; None to check no more than the numbers.

        Raises:
            ValueError: if they are no numbers, or not as many as channels.
        """
        if self.mean is None or self.std is None:
            return None
        mean, std = _numbers("mean", self.mean), _numbers("std", self.std)
        if not all(value > 0 for value in std):
            raise ValueError(f"std: expected numbers above 0, got {self.std!r}")
        return _per_channel("mean", mean, channels), _per_channel("std", std, channels)


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """How training images are varied at random, anew in each epoch; see ``augment`` to have none of it.

    Args:
        crop: pixels of black on each side, before an image of the old size is cut out; 0 for no crop. None for an
            eighth of the shorter side, and none for data with transforms of its own.
        flip: whether each image is mirrored with probability 1/2. None to mirror images in colour, unless the classes
            are digits, letters or numbers, or the data has transforms of its own.
        rand_augment: operations of RandAugment for each image, such as turns, shears and changes of contrast; 0 for
            none.
        rand_augment_magnitude: their strength, 0 to 30.
        mixup: alpha of the beta distribution by which two images and their targets are mixed; 0 for none. For classes
            only.
        erasing: probability that a rectangle of an image is replaced by the mean colour; 0 for none.

    Raises:
        ValueError: if a value is out of range.
    """

    crop: int | None = None
    flip: bool | None = None
    rand_augment: int = 0
    rand_augment_magnitude: int = 9
    mixup: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.crop is not None:
            check_between("crop", self.crop, 0, 2**16)
        check_between("rand_augment", self.rand_augment, 0, 17)
        check_between("rand_augment_magnitude", self.rand_augment_magnitude, 0, 31)
        check_between("mixup", self.mixup, 0, 1001)
        if not 0 <= self.erasing <= 1:
            raise ValueError(f"erasing: expected a probability, 0 to 1, got {self.erasing}")


IMAGE_SETTINGS = ImageSettings()
AUGMENTATION_SETTINGS = AugmentationSettings()


def _numbers(name: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(-1e6 < value < 1e6 for value in values):
        raise ValueError(f"{name}: expected numbers such as 0.485,0.456,0.406, got {text!r}")
    return values


def _per_channel(name: str, values: Sequence[float], channels: int | None) -> Tensor:
    if channels is None:
        return torch.tensor(values)
    if len(values) not in (1, channels):
        raise ValueError(f"images.{name}: expected 1 number or {channels}, one for each channel, got {len(values)}")
    return torch.tensor(values).expand(channels).clone()
