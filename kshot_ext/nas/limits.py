"""The budget a found network must meet, and how an architecture is made to meet it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.space import SearchSpace


@dataclass(frozen=True)
class SearchLimits:
    """Hard limits on the networks of a search.

    Args:
        max_macs: most multiply-accumulates for one image, or None for no limit.

    Raises:
        ValueError: if a limit is below 1.
    """

    max_macs: int | None = None

    def __post_init__(self) -> None:
        if self.max_macs is not None:
            check_at_least("max_macs", self.max_macs, 1)

    def admit(self, space: SearchSpace, architecture: Architecture) -> bool:
        """Whether the architecture meets every limit."""
        return self.max_macs is None or space.count_macs(architecture) <= self.max_macs

    def check_reachable(self, space: SearchSpace) -> None:
        """Checks that some architecture of the space meets the limits.

        Raises:
            ValueError: naming the limit and the range that the space offers.
        """
        if not self.admit(space, space.cheapest()):
            raise ValueError(
                f"max_macs: no architecture of space {space.name} has at most {self.max_macs:,} "
                f"multiply-accumulates; they range from {space.count_macs(space.cheapest()):,} "
                f"to {space.count_macs(space.largest()):,}"
            )


def repair(
    architecture: Architecture, space: SearchSpace, limits: SearchLimits, generator: torch.Generator
) -> Architecture:
    """Brings an architecture within the limits by making random choices cheaper, one at a time.

    Args:
        architecture: a member of the space; returned unchanged if it meets the limits.
        space: the space searched.
        limits: limits that the space's cheapest architecture meets.
        generator: picks the choices.

    Returns:
        An architecture that meets the limits.
    """
    limits.check_reachable(space)
    while not limits.admit(space, architecture):
        cheaper = space.cheaper_neighbours(architecture) or [space.cheapest()]
        architecture = cheaper[int(torch.randint(len(cheaper), (), generator=generator))]
    return architecture
