"""Random variation of images, on whole batches at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """Random crop out of a zero-padded image, then a random horizontal flip.

    Args:
        padding: pixels added on each side before an image of the old size is cut out; default 0 (no crop).
        horizontal_flip: whether each image is mirrored with probability 1/2; default False.

    Raises:
        ValueError: if ``padding`` is negative.

    Example:
        >>> import torch
        >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> Augmentation(padding=1)(images, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3, 8, 8])
    """

    padding: int = 0
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding: expected 0 or more pixels, got {self.padding}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a varied copy of a batch.

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

    def _random_offsets(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(2 * self.padding + 1, (batch, 1), generator=generator)


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
