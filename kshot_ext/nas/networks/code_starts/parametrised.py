"""A copy for each range of the number of layers that have weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext.nas.networks.code_starts.code_start import GroupStart
from kshot_ext.nas.networks.code_starts.ordered_groups import OrderedGroups
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_SAMPLES = 1024


class ParametrisedCount(GroupStart):
    """Groups by the number of searched layers whose operation has weights, of nearly equal size.

    How many other operations with weights a weight works together with decides what it has to learn: one convolution
    among poolings and shortcuts does all the work, one among five corrects what the others leave. Where there are more
    copies than numbers, or a number is rare, multiply-accumulates decide within a number; so the start serves spaces
    whose every operation has weights, and widths, too.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-201", image_shape=(3, 32, 32), num_classes=10)
        >>> start = ParametrisedCount(space, 4, None, torch.Generator().manual_seed(0))
        >>> start.groups([space.from_genes([3] * count + [1] * (6 - count)) for count in range(7)])
        tensor([0, 0, 1, 2, 3, 3, 3])
    """

    def __init__(self, space: SearchSpace, num_shots: int, size: float | None, generator: torch.Generator) -> None:
        super().__init__(space, num_shots, size, generator)
        samples = [space.sample(generator) for _ in range(_SAMPLES)]
        self.order = OrderedGroups(torch.tensor(self._pairs(samples)), num_shots, "layers with weights")

    def groups(self, architectures: Sequence[Architecture]) -> Tensor:
        return self.order(self._pairs(architectures))

    def _pairs(self, architectures: Sequence[Architecture]) -> list[tuple[float, float]]:
        return [(self.space.count_parametrised(a), self.space.count_macs(a)) for a in architectures]
