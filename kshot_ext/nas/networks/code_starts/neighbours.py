"""A code per layer, by what its neighbours are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nas.networks.code_starts.code_start import GroupStart
from kshot_ext.nas.networks.code_starts.ordered_groups import OrderedGroups
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_SAMPLES = 1024


class Neighbours(GroupStart):
    """Groups of a layer by how many of its neighbours have weights, and by their multiply-accumulates.

    Neighbours are the layers that a layer gets its input from or gives its output to, see
    :meth:`kshot_ext.nas.spaces.space.SearchSpace.neighbours`. Widths do not count.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-201", image_shape=(3, 32, 32), num_classes=10)
        >>> start = Neighbours(space, 3, None, torch.Generator().manual_seed(0))
        >>> start.groups([space.cheapest(), space.largest()])
        tensor([[0, 0, 0, 0, 0, 0],
                [2, 2, 2, 2, 2, 2]])
    """

    per_layer = True

    def __init__(self, space: SearchSpace, num_shots: int, size: float | None, generator: torch.Generator) -> None:
        super().__init__(space, num_shots, size, generator)
        samples = [space.sample(generator) for _ in range(_SAMPLES)]
        self.orders = nn.ModuleList(
            OrderedGroups(torch.tensor(self._pairs(samples, layer)), num_shots, "neighbours with weights")
            for layer in range(space.num_layers)
        )

    def groups(self, architectures: Sequence[Architecture]) -> Tensor:
        of_layers = [order(self._pairs(architectures, layer)) for layer, order in enumerate(self.orders)]
        return torch.stack(of_layers, dim=1)

    def _pairs(self, architectures: Sequence[Architecture], layer: int) -> list[tuple[float, float]]:
        costs = [
            [self.space.layer_cost(other, path.operations[other]) for other in self.space.neighbours(layer)]
            for path in architectures
        ]
        return [(sum(cost.parameters > 0 for cost in row), sum(cost.macs for cost in row)) for row in costs]
