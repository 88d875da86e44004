"""Hard limits that a found network must meet, and how an architecture is made to meet them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import COST_TITLES
from kshot_ext.nas.spaces.space import SearchSpace

_COSTS = {"max_macs": "macs", "max_parameters": "parameters", "max_bit_operations": "bit_operations"}
"""Names of limits, and what they limit of :class:`kshot_ext.nas.spaces.counting.Cost`."""


@dataclass(frozen=True)
class SearchLimits:
    """Hard limits on the networks of a search.

    Args:
        max_macs: most multiply-accumulates for one image, or None for no limit.
        max_parameters: most trainable numbers of the plain network, or None.
        max_bit_operations: most bit operations for one image, in a space with bits, or None.
        max_latency: most milliseconds, or None.
        latency: milliseconds of an architecture, such as a :class:`kshot_ext.nas.searchers.latency_table.LatencyTable`.

    Raises:
        ValueError: if a limit is below 1 (a latency: below 0), or there is one on the latency and nothing to tell it.
    """

    max_macs: int | None = None
    max_parameters: int | None = None
    max_latency: float | None = None
    latency: Callable[[Architecture], float] | None = None
    max_bit_operations: int | None = None

    def __post_init__(self) -> None:
        for name, least in {**dict.fromkeys(_COSTS, 1), "max_latency": 0}.items():
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), least, math.inf)
        if self.max_latency is not None and self.latency is None:
            raise ValueError("max_latency: expected latency too, to tell an architecture's milliseconds, got None")

    def excess(self, space: SearchSpace, architecture: Architecture) -> float:
        """By how much the architecture exceeds the limits: ``sum_i max(0, cost_i / limit_i - 1)``; 0 within them."""
        cost = space.cost(architecture)
        ratios = [getattr(cost, _COSTS[name]) / most for name, most in self._most_costs().items()]
        if self.max_latency is not None and self.latency is not None:
            ratios.append(self.latency(architecture) / self.max_latency if self.max_latency else float("inf"))
        return sum(max(0.0, ratio - 1) for ratio in ratios)

    def admit(self, space: SearchSpace, architecture: Architecture) -> bool:
        """Whether the architecture meets every limit."""
        return self.excess(space, architecture) == 0

    def check_reachable(self, space: SearchSpace) -> None:
        """Checks that some architecture of the space meets the limits.

        Raises:
            ValueError: naming the limits and what the space offers.
        """
        repair(space.cheapest(), space, self, torch.Generator().manual_seed(0))

    def __str__(self) -> str:
        limits: dict[str, float | None] = {COST_TITLES[_COSTS[name]]: most for name, most in self._most_costs().items()}
        limits["milliseconds"] = self.max_latency
        return ", ".join(f"at most {most:,} {name}" for name, most in limits.items() if most is not None) or "no limit"

    def _most_costs(self) -> dict[str, int]:
        """The limits on what a space counts, by name."""
        return {name: getattr(self, name) for name in _COSTS if getattr(self, name) is not None}


def repair(
    architecture: Architecture, space: SearchSpace, limits: SearchLimits, generator: torch.Generator
) -> Architecture:
    """Brings an architecture within the limits by random changes of one choice, each of which lowers the excess.

    Where no such change is left, it starts once more from the cheapest architecture.

    Args:
        architecture: a member of the space; returned unchanged if it meets the limits.
        space: the space searched.
        limits: what to meet.
        generator: picks the choices.

    Returns:
        An architecture that meets the limits.

    Raises:
        ValueError: if it finds none.
    """
    for start in (architecture, space.cheapest()):
        nearest = _descend(start, space, limits, generator)
        if limits.admit(space, nearest):
            return nearest
    if limits.max_macs is not None and space.count_macs(space.cheapest()) > limits.max_macs:
        raise ValueError(
            f"limits: no architecture of space {space.name} has at most {limits.max_macs:,} "
            f"multiply-accumulates; they range from {space.count_macs(space.cheapest()):,} "
            f"to {space.count_macs(space.largest()):,}"
        )
    cost = space.cost(nearest)
    bits = f", {cost.bit_operations:,} bit operations" if cost.bit_operations else ""
    time = "" if limits.latency is None else f" and {limits.latency(nearest):.3g} milliseconds"
    raise ValueError(
        f"limits: found no architecture of space {space.name} with {limits}; the nearest has "
        f"{cost.macs:,} multiply-accumulates, {cost.parameters:,} parameters{bits}{time}"
    )


def _descend(
    architecture: Architecture, space: SearchSpace, limits: SearchLimits, generator: torch.Generator
) -> Architecture:
    excess = limits.excess(space, architecture)
    while excess > 0:
        for neighbour in _neighbours(architecture, space, generator):
            neighbours_excess = limits.excess(space, neighbour)
            if neighbours_excess < excess:
                architecture, excess = neighbour, neighbours_excess
                break
        else:
            break
    return architecture


def _neighbours(architecture: Architecture, space: SearchSpace, generator: torch.Generator) -> Iterator[Architecture]:
    """All architectures that differ in one choice, in random order."""
    genes = space.genes(architecture)
    changes = [
        (position, choice)
        for position, count in enumerate(space.num_choices)
        for choice in range(count)
        if choice != genes[position]
    ]
    for index in torch.randperm(len(changes), generator=generator).tolist():
        position, choice = changes[index]
        yield space.from_genes((*genes[:position], choice, *genes[position + 1 :]))
