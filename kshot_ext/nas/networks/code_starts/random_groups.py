"""Groups that follow nothing: the control that other starts must beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext.nas.networks.code_starts.code_start import GroupStart
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_BITS = 63


class RandomGroups(GroupStart):
    """Equal groups of architectures that have nothing in common, the same ones whenever asked.

    Codes by these differ as much as by other groups, and every copy is trained as much; what they gain or cost comes
    from thinner training alone.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> start = RandomGroups(space, 4, None, torch.Generator().manual_seed(0))
        >>> generator = torch.Generator().manual_seed(1)
        >>> groups = start.groups([space.sample(generator) for _ in range(1000)])
        >>> groups.bincount().min() > 200
        tensor(True)
    """

    table: Tensor

    def __init__(self, space: SearchSpace, num_shots: int, size: float | None, generator: torch.Generator) -> None:
        super().__init__(space, num_shots, size, generator)
        shape = len(space.num_choices), max(space.num_choices)
        self.register_buffer("table", torch.randint(2**_BITS - 1, shape, generator=generator))

    def groups(self, architectures: Sequence[Architecture]) -> Tensor:
        numbers = self.table.tolist()
        hashes = [
            _mixed(sum(row[gene] for row, gene in zip(numbers, self.space.genes(path)))) for path in architectures
        ]
        return torch.tensor([value % self.num_shots for value in hashes], device=self.table.device)


def _mixed(value: int) -> int:
    """Spreads every bit of a number over all: sums of the same terms would give related groups otherwise."""
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the finaliser of splitmix64 (Steele et al., OOPSLA 2014)
        value = (value ^ (value >> 31)) * factor % 2**64
    return value >> 32
