"""Where an architecture's cost lies among those of its space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_SAMPLES = 256


class CostRank(nn.Module):
    """The share of architectures that cost less, taking multiply-accumulates as normally distributed:

        z(a) = Phi((macs(a) - mean) / deviation)

    Args:
        space: whose architectures it reads.
        generator: draws the architectures from which mean and deviation are estimated.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> rank = CostRank(space, torch.Generator().manual_seed(0))
        >>> [round(z) for z in rank([space.cheapest(), space.largest()]).tolist()]
        [0, 1]
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, space: SearchSpace, generator: torch.Generator) -> None:
        super().__init__()
        self.space = space
        macs = self._macs([space.sample(generator) for _ in range(_SAMPLES)])
        self.register_buffer("mean", macs.mean())
        self.register_buffer("deviation", macs.std().clamp(min=1.0))

    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        """Ranks of M architectures, float64 ``[M]``, from 0 to 1."""
        macs = self._macs(architectures).to(self.mean.device)
        return torch.special.ndtr((macs - self.mean) / self.deviation)

    def _macs(self, architectures: Sequence[Architecture]) -> Tensor:
        return torch.tensor([self.space.count_macs(path) for path in architectures], dtype=torch.float64)
