"""Labelled images that are in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kshot_ext.nas.datasets.augmentation import VaryImage
from kshot_ext.nas.randomness import everything_seeded


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

    def joined(self, other: object) -> ImageSet:
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


def _seeded(vary: VaryImage, image: Tensor, seed: int) -> Tensor:
    with everything_seeded(seed):
        return vary(image)
