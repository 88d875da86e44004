"""Sets of labelled images: one that is in memory, and the three sets that a search needs."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import Augmentation, VaryImage, Views
from kshot_ext.nas.randomness import everything_seeded
from kshot_ext.nas.task import CLASSIFICATION, Task

if TYPE_CHECKING:
    from kshot_ext.nas.datasets.streamed import StreamedImages


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory.

    Args:
        images: uint8 or float32 ``[N, C, H, W]``.
        labels: int64 ``[N]``, class indices; or float32 ``[N, T]`` where the task has no classes.

    Raises:
        ValueError: if a shape or dtype is not as above.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.images.dtype not in (torch.uint8, torch.float32) or self.images.dim() != 4:
            got = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images: expected uint8 or float32 [N, C, H, W], got {got}")
        dimensions = {torch.int64: 1, torch.float32: 2}.get(self.labels.dtype)
        if self.labels.dim() != dimensions or len(self.labels) != count:
            got = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise ValueError(f"labels: expected int64 [{count}], or float32 [{count}, T], got {got}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def dtype(self) -> torch.dtype:
        """Of every image: uint8, or float32 if what they passed through gives that."""
        return self.images.dtype

    @property
    def varies(self) -> bool:
        """Whether reading an image draws random numbers: never, as it is in memory."""
        return False

    def subset(self, indices: Tensor) -> ImageSet:
        """Return the images at ``indices`` (int64 ``[M]``), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])

    def joined(self, other: Images) -> ImageSet:
        """Return these images, then the other ones."""
        assert isinstance(other, ImageSet), "images in memory join such images"
        return ImageSet(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))

    def in_memory(self) -> ImageSet:
        """Return the same images."""
        return self

    def read(
        self,
        chunks: Iterable[Tensor],
        *,
        seeds: Tensor | None = None,
        vary: VaryImage | None = None,
        training: bool = False,
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield images and labels, a batch at a time.

        Args:
            chunks: int64 ``[B]`` each, of the images of a batch.
            seeds: int64 ``[N]``, below 2^32, of what is drawn when an image is read or varied; None for seeds that are
                always the same.
            vary: varies each image.
            training: whether images pass through what training images pass through.

        Yields:
            ``[B, C, H, W]`` as they are kept, and their labels.
        """
        for chunk in chunks:
            images = self.images[chunk]
            if vary is not None:
                numbers = chunk if seeds is None else seeds[chunk]
                images = torch.stack([_seeded(vary, *pair) for pair in zip(images, numbers.tolist())])
            yield images, self.labels[chunk]

    def add_to_digest(self, digest: Any) -> None:
        """Add all pixels and labels."""
        for tensor in (self.images, self.labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)

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


Images: TypeAlias = "ImageSet | StreamedImages"
"""Labelled images, in memory or streamed: both have the same methods."""


def _seeded(vary: VaryImage, image: Tensor, seed: int) -> Tensor:
    with everything_seeded(seed):
        return vary(image)


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
        """Return the same images without their labels, see :meth:`ImageSet.unlabelled`."""
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
