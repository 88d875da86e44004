"""Several networks as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of the logits of several networks: ``f(x) = sum_i f_i(x) / n``.

    Args:
        networks: from images to logits ``[N, num_classes]``, one at the least; they are parts of this one.

    Raises:
        ValueError: if there is none.

    Example:
        >>> half, whole = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> images = torch.rand(4, 3)
        >>> torch.equal(Ensemble([half, whole])(images), (half(images) + whole(images)) / 2)
        True
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("networks: expected one at the least, got none")
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([network(images) for network in self.networks]).mean(dim=0)
