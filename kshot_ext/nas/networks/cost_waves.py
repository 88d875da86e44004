"""A start for codes that means something: smooth in the cost of an architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_SAMPLES = 256


class CostWaves(nn.Module):
    """Logits with a crest that moves from the first entry, for cheap architectures, to the last, for costly ones:

        logit_k(a) = size * cos(2 pi / K * ((K - 1) * z(a) - k)),   k = 0 .. K - 1

    z(a), from 0 to 1, is the share of architectures that cost less than a, taking multiply-accumulates as normally
    distributed. So entries get nearly equal shares, and architectures of similar cost similar codes. Random codes
    that differ as much would give every copy training that fits nothing.

    Args:
        space: whose architectures it reads.
        num_shots: K.
        size: amplitude of the waves.
        generator: draws the architectures from which the distribution of costs is estimated.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> waves = CostWaves(space, 3, 1.0, torch.Generator().manual_seed(0))
        >>> waves([space.cheapest(), space.largest()]).argmax(dim=1)
        tensor([0, 2])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, space: SearchSpace, num_shots: int, size: float, generator: torch.Generator) -> None:
        super().__init__()
        self.space = space
        self.num_shots = num_shots
        self.size = size
        macs = self._macs([space.sample(generator) for _ in range(_SAMPLES)])
        self.register_buffer("mean", macs.mean())
        self.register_buffer("deviation", macs.std().clamp(min=1.0))

    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        """Logits of M architectures, float32 ``[M, K]``."""
        macs = self._macs(architectures).to(self.mean.device)
        rank = torch.special.ndtr((macs - self.mean) / self.deviation)[:, None]
        crests = torch.arange(self.num_shots, device=rank.device)
        angles = 2 * math.pi / self.num_shots * ((self.num_shots - 1) * rank - crests)
        return (self.size * angles.cos()).float()

    def _macs(self, architectures: Sequence[Architecture]) -> Tensor:
        return torch.tensor([self.space.count_macs(path) for path in architectures], dtype=torch.float64)
