"""Random variation of training images, on whole batches at once."""

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
