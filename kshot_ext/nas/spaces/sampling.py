"""Random architectures under conditions; every search for one ends after a stated number of tries."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import COST_TITLES
from kshot_ext.nas.spaces.limits import SearchLimits, repair
from kshot_ext.nas.spaces.space import SearchSpace

_TRIES_PER_ARCHITECTURE = 200
_TRIES_FOR_EQUAL_BUDGET = 20_000


def random_architectures(
    space: SearchSpace, limits: SearchLimits, count: int, generator: torch.Generator
) -> list[Architecture]:
    """Different random architectures that all meet the limits.

    Args:
        space: the space to draw from.
        limits: limits to meet; an architecture beyond them is repaired.
        count: how many.
        generator: source of the random choices.

    Raises:
        ValueError: if no architecture meets the limits, or too few do.
    """
    limits.check_reachable(space)
    if count > (number := math.prod(space.num_choices)):  # which no number of tries would find
        raise ValueError(
            f"expected {count} different architectures of space {space.name}, which has {number}: take a smaller "
            "population"
        )
    found: dict[Architecture, None] = {}
    for _ in range(_TRIES_PER_ARCHITECTURE * count):
        found[repair(space.sample(generator), space, limits, generator)] = None
        if len(found) == count:
            return list(found)
    raise ValueError(
        f"expected {count} different architectures of space {space.name} within {limits}, "
        f"found only {len(found)} in {_TRIES_PER_ARCHITECTURE * count} tries: "
        "raise the limit or take a smaller population"
    )


def random_architecture_of_equal_budget(
    space: SearchSpace,
    amount: int,
    tolerance: float,
    generator: torch.Generator,
    exclude: Collection[Architecture] = (),
    cost: str = "macs",
) -> Architecture:
    """A random architecture that costs about as much as another one, to compare a search result with.

    Args:
        space: the space to draw from.
        amount: cost to come near to.
        tolerance: largest accepted difference, as a share of ``amount``, e.g. 0.05.
        generator: source of the random choices.
        exclude: architectures not wanted, such as the search result itself.
        cost: which cost, a field of :class:`kshot_ext.nas.spaces.counting.Cost`.

    Raises:
        ValueError: if no such architecture turned up; the message tells the nearest count that did.
    """
    nearest = random_architecture_near(space, amount, tolerance, generator, exclude, cost)
    count = getattr(space.cost(nearest), cost)
    if abs(count - amount) > tolerance * amount:
        raise ValueError(
            f"found no architecture of space {space.name} with {amount:,} {COST_TITLES[cost]} give or take "
            f"{tolerance:.1%} in {_TRIES_FOR_EQUAL_BUDGET} random tries; the nearest has {count:,}: raise the tolerance"
        )
    return nearest


def random_architecture_near(
    space: SearchSpace,
    amount: int,
    tolerance: float,
    generator: torch.Generator,
    exclude: Collection[Architecture] = (),
    cost: str = "macs",
) -> Architecture:
    """The same, but where none of so equal cost turns up, the one of the nearest cost that did.

    Raises:
        ValueError: if there is no other architecture than those excluded.
    """
    nearest: Architecture | None = None
    least = math.inf
    for _ in range(_TRIES_FOR_EQUAL_BUDGET):
        architecture = space.sample(generator)
        if architecture in exclude:
            continue
        difference = abs(getattr(space.cost(architecture), cost) - amount)
        if difference < least:
            nearest, least = architecture, difference
        if nearest is not None and least <= tolerance * amount:
            return nearest
    if nearest is None:
        raise ValueError(
            f"found no other architecture of space {space.name} than the {len(exclude)} excluded in "
            f"{_TRIES_FOR_EQUAL_BUDGET} random tries"
        )
    return nearest
