"""Codes that are smooth in the cost of an architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext.nas.networks.code_starts.code_start import CodeStart
from kshot_ext.nas.networks.cost_rank import CostRank
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


class CostWaves(CodeStart):
    """Logits with a crest that moves from the first entry, for cheap architectures, to the last, for costly ones:

        logit_k(a) = size * cos(2 pi / K * ((K - 1) * z(a) - k)),   k = 0 .. K - 1

    z(a), from 0 to 1, is the share of architectures that cost less than a, see
    :class:`kshot_ext.nas.networks.cost_rank.CostRank`. So entries get nearly equal shares, and architectures of similar
    cost similar codes.

    Args:
        space, num_shots, generator: as for every start.
        size: amplitude of the waves.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> waves = CostWaves(space, 3, 1.0, torch.Generator().manual_seed(0))
        >>> waves([space.cheapest(), space.largest()])[:, 0].argmax(dim=1)
        tensor([0, 2])
    """

    default_size = 3.0

    def __init__(self, space: SearchSpace, num_shots: int, size: float | None, generator: torch.Generator) -> None:
        super().__init__(space, num_shots, size, generator)
        self.rank = CostRank(space, generator)

    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        rank = self.rank(architectures)[:, None, None]
        crests = torch.arange(self.num_shots, device=rank.device)
        angles = 2 * math.pi / self.num_shots * ((self.num_shots - 1) * rank - crests)
        return (self.size * angles.cos()).float()
