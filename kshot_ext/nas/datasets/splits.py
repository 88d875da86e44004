"""Images in memory: one labelled set, and the three sets that a search needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import Augmentation, Views


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Args:
        images: uint8 ``[N, C, H, W]``.
        labels: int64 ``[N]``, class indices.

    Raises:
        ValueError: if a shape or dtype is not as above.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            got = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images: expected uint8 [N, C, H, W], got {got}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            got = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise ValueError(f"labels: expected int64 [{len(self.images)}], got {got}")

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Tensor) -> ImageSet:
        """Return the images at ``indices`` (int64 ``[M]``), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> ImageSet:
        """Return the same images on a device; batches of them are made there."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def unlabelled(self) -> ImageSet:
        """Return the same images without their labels: those have a shape, but no values that anything could read.

        Example:
            >>> images = ImageSet(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])).unlabelled()
            >>> images.subset(torch.tensor([1])).labels
            tensor(..., device='meta', size=(1,), dtype=torch.int64)
        """
        return ImageSet(self.images, self.labels.to("meta"))


@dataclass(frozen=True)
class DataSplits:
    """The images of one search: trained on, selected on, and reported on.

    Args:
        train, validation, test: three disjoint sets of equal image shape.
        class_names: name of each class index.
        mean, std: float32 ``[C]``, of the training images divided by 255.
        augmentation: variation that suits the training images; None for none.
        notes: what a user should know of the choice of images, see `ImageSource`.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    augmentation: Augmentation | None = None
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

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
        """Return the same images without their labels, see :meth:`ImageSet.unlabelled`."""
        train, validation, test = (images.unlabelled() for images in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test)

    def digest(self) -> str:
        """Return the SHA-256 of all pixels, labels and class names, and of how they are divided."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for images in (self.train, self.validation, self.test):
            for tensor in (images.images, images.labels):
                digest.update(repr(tuple(tensor.shape)).encode())
                digest.update(tensor.cpu().contiguous().numpy().data)
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
