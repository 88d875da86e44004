"""The three sets of labelled images that a search needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import Augmentation, Views
from kshot_ext.nas.datasets.streamed import Images
from kshot_ext.nas.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class DataSplits:
    """The images of one search: trained on, selected on, and reported on.

    Args:
        train, validation, test: three disjoint sets of equal image shape.
        class_names: name of each class index; none where targets are no classes.
        mean, std: float32 ``[C]``, that images are normalised by: of the training images, in shares of white.
        augmentation: variation that suits the training images; None for none.
        notes: what a user should know of the choice of images, see `ImageSource`.
        task: what targets mean.
    """

    train: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    augmentation: Augmentation | None = None
    notes: tuple[str, ...] = ()
    task: Task = CLASSIFICATION

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self.train.image_shape

    @property
    def num_classes(self) -> int:
        """How many outputs networks have: one for each class, or what the task says."""
        return self.task.num_outputs(self.train.labels, self.class_names)

    @property
    def targets_described(self) -> str:
        """What each image has, for people: how many classes there are, or how many numbers for a task."""
        count = self.num_classes
        return f"{count} classes" if self.task.has_classes else f"{self.task.name} of {count} numbers"

    @property
    def views(self) -> Views:
        """Views that suit the training images: mirrored where their variation mirrors them."""
        return Views(horizontal_flip=self.augmentation is not None and self.augmentation.horizontal_flip)

    def to(self, device: torch.device) -> DataSplits:
        """Return the same images on a device."""
        sets = (self.train, self.validation, self.test)
        train, validation, test = (images.to(device) for images in sets)
        mean, std = self.mean.to(device), self.std.to(device)
        return replace(self, train=train, validation=validation, test=test, mean=mean, std=std)

    def unlabelled(self) -> DataSplits:
        """Return the same images without their labels, see `ImageSet.unlabelled`."""
        train, validation, test = (images.unlabelled() for images in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test)

    def digest(self) -> str:
        """Return the SHA-256 of pixels (some, of streamed images), labels and class names, and of their division."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for images in (self.train, self.validation, self.test):
            images.add_to_digest(digest)
        return digest.hexdigest()


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel of ``images / 255``.

    A channel that never changes gets the standard deviation 1, so that dividing by it stays harmless.

    Args:
        images: uint8 ``[N, C, H, W]``.

    Returns:
        Two float32 tensors ``[C]``.
    """
    # Exact integer counts per grey value need no float copy of the whole set.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.float(), std.float()
