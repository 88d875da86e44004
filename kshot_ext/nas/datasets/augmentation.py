"""Random variation of images: crops and flips on whole batches at once, the rest by torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.nas.extras import require
from kshot_ext.nas.randomness import seeded_by

VaryImage = Callable[[Tensor], Tensor]
"""Varies one image ``[C, H, W]`` by torch's global random numbers; keeps its shape and dtype."""


@dataclass(frozen=True)
class Augmentation:
    """Variation of single images, then random crops out of zero-padded images, then random flips, then mixtures.

    Args:
        padding: pixels added on each side before an image of the old size is cut out; default 0 (no crop).
        horizontal_flip: whether each image is mirrored with probability 1/2; default False.
        vary: varies an image when it is read, such as :class:`RandomOperations`; default None.
        mixup: alpha of the beta distribution by which images are mixed with others of their batch, and classes with
            theirs (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018); default 0 for none. Needs
            torchvision.
        num_classes: of the classes to mix.

    Raises:
        ValueError: if ``padding`` or ``mixup`` is negative.

    Example:
        >>> import torch
        >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> Augmentation(padding=1)(images, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3, 8, 8])
    """

    padding: int = 0
    horizontal_flip: bool = False
    vary: VaryImage | None = None
    mixup: float = 0.0
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding: expected 0 or more pixels, got {self.padding}")
        if self.mixup < 0:
            raise ValueError(f"mixup: expected 0 or more, got {self.mixup}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a batch, cropped and mirrored at random.

        Args:
            images: ``[B, C, H, W]``, any dtype.
            generator: source of all random choices.

        Returns:
            Same shape and dtype, channels_last in memory.
        """
        batch, _, height, width = images.shape
        rows = self._random_offsets(batch, generator) + torch.arange(height)  # [B, H]
        columns = self._random_offsets(batch, generator) + torch.arange(width)  # [B, W]
        if self.horizontal_flip:
            mirrored = torch.randint(2, (batch, 1), generator=generator).bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(images, (self.padding,) * 4).permute(0, 2, 3, 1)
        chosen = padded[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return chosen.permute(0, 3, 1, 2)

    def mix(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a mixed batch, if images are to be mixed.

        Args:
            images: normalised, ``[B, C, H, W]``.
            labels: int64 ``[B]``.
            generator: source of all random choices.

        Returns:
            Images of the same shape, and probabilities of classes ``[B, num_classes]``; else what came.
        """
        if self.mixup == 0:
            return images, labels
        mixing = require("torchvision.transforms.v2", "vision").MixUp(alpha=self.mixup, num_classes=self.num_classes)
        with seeded_by(generator):
            return mixing(images, labels)

    def _random_offsets(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(2 * self.padding + 1, (batch, 1), generator=generator)


@dataclass(frozen=True)
class RandomOperations:
    """RandAugment, then random erasing, of one image, by torchvision's transforms.

    (Cubuk et al., "RandAugment", NeurIPS 2020; Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.)

    Args:
        operations: of RandAugment, 0 for none; images are then uint8.
        magnitude: their strength, 0 to 30.
        erasing: probability that a rectangle is replaced.
        colour: what it is replaced by, a value for each channel, as the images have them.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """

    operations: int = 0
    magnitude: int = 9
    erasing: float = 0.0
    colour: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require("torchvision.transforms.v2", "vision")

    def __call__(self, image: Tensor) -> Tensor:
        """Return a varied copy of an image ``[C, H, W]``; torch's global generator decides."""
        for transform in self._transforms:
            image = transform(image)
        return image

    @cached_property
    def _transforms(self) -> list[Any]:
        v2 = require("torchvision.transforms.v2", "vision")
        made = [v2.RandAugment(self.operations, self.magnitude)] if self.operations else []
        return made + ([v2.RandomErasing(self.erasing, value=list(self.colour))] if self.erasing else [])


@dataclass(frozen=True)
class Views:
    """Views of images, for tasks in which an image is to be recognised in another view of it.

    Each is a random part of its image at the old size, perhaps mirrored, whose channels are each made lighter or darker
    and given more or less contrast: ``view[c] = contrast[c] * part[c] + brightness[c]``. Without the latter, the mean
    of a channel would give an image away. (After Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020.)

    Args:
        least_area: smallest share of the image that a part covers, above 0 and at most 1.
        jitter: most that contrast differs from 1 and brightness from 0, in standard deviations of the images.
        horizontal_flip: whether each part is mirrored with probability 1/2.

    Raises:
        ValueError: if a value is out of range.

    Example:
        >>> images, generator = torch.zeros(4, 3, 8, 8), torch.Generator().manual_seed(0)
        >>> views = Views(jitter=0.0)
        >>> views(images, views.draw(4, 3, generator)).shape
        torch.Size([4, 3, 8, 8])
    """

    least_area: float = 0.3
    jitter: float = 0.4
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.least_area <= 1:
            raise ValueError(f"least_area: expected a share above 0 and at most 1, got {self.least_area}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter: expected 0 or more and below 1, got {self.jitter}")

    def draw(self, count: int, channels: int, generator: torch.Generator) -> Tensor:
        """All random choices of so many views, float32 ``[count, ...]``, a row for each."""
        return torch.rand(count, _CHOICES_OF_A_PART + 2 * channels, generator=generator)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """A view of each image.

        Args:
            images: normalised, float ``[B, C, H, W]``.
            drawn: ``[B, ...]``, from :meth:`draw`.

        Returns:
            Same shape and dtype, channels_last in memory.
        """
        drawn = drawn.to(images.device, images.dtype)
        (area, x, y, mirror), strengths = drawn[:, :_CHOICES_OF_A_PART].unbind(1), drawn[:, _CHOICES_OF_A_PART:]
        side = (self.least_area + (1 - self.least_area) * area).sqrt()
        room = 1 - side  # how far a part's middle may be from the image's, in halves of the image
        across = torch.where(mirror < 0.5, -side, side) if self.horizontal_flip else side
        zero = torch.zeros_like(side)
        rows = (across, zero, room * (2 * x - 1), zero, side, room * (2 * y - 1))
        grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
        parts = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        contrast, brightness = (self.jitter * (2 * strengths - 1)).chunk(2, dim=1)
        views = (1 + contrast)[:, :, None, None] * parts + brightness[:, :, None, None]
        return views.contiguous(memory_format=torch.channels_last)


_CHOICES_OF_A_PART = 4  # its area, the place of its middle, and whether it is mirrored
