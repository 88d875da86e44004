"""Plainer ways to choose the next architectures, to compare NSGA-II with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_TRIES_PER_ARCHITECTURE = 50


def random_children(
    space: SearchSpace,
    count: int,
    *,
    repair: Callable[[Architecture], Architecture],
    is_known: Callable[[Architecture], bool],
    generator: torch.Generator,
) -> list[Architecture]:
    """New random architectures: random search.

    Args:
        space: the space to draw from.
        count: how many at most; fewer where new ones have become rare.
        repair: makes an architecture legal.
        is_known: whether an architecture needs no evaluation any more, and so is not wanted.
        generator: source of the random choices.
    """
    return _distinct(lambda: repair(space.sample(generator)), count, is_known)


def evolved_children(
    parents: Sequence[Architecture],
    space: SearchSpace,
    count: int,
    mutation_probability: float,
    *,
    repair: Callable[[Architecture], Architecture],
    is_known: Callable[[Architecture], bool],
    generator: torch.Generator,
) -> list[Architecture]:
    """Half mutations of a random parent, half crossovers of two, the rest random: plain evolution.

    Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020.

    Args:
        parents: the best so far.
        mutation_probability: chance of each choice to be drawn anew in a mutation.
        space, count, repair, is_known, generator: as in :func:`random_children`.
    """
    genes = [space.genes(parent) for parent in parents]

    def chosen() -> tuple[int, ...]:
        return genes[int(torch.randint(len(genes), (), generator=generator))]

    def mixed(one: Sequence[int], other: Sequence[int], probability: float) -> Architecture:
        takes_other = torch.rand(len(one), generator=generator) < probability
        return repair(space.from_genes([b if take else a for a, b, take in zip(one, other, takes_other.tolist())]))

    def mutation() -> Architecture:
        return mixed(chosen(), space.genes(space.sample(generator)), mutation_probability)

    def crossover() -> Architecture:
        return mixed(chosen(), chosen(), 0.5)

    children = _distinct(mutation, count // 2, is_known)
    for draw, wanted in ((crossover, count - count // 2), (lambda: repair(space.sample(generator)), count)):
        known = set(children)
        missing = min(wanted, count - len(children))
        children += _distinct(draw, missing, lambda child, known=known: child in known or is_known(child))
    return children


def _distinct(
    draw: Callable[[], Architecture], count: int, is_known: Callable[[Architecture], bool]
) -> list[Architecture]:
    found: dict[Architecture, None] = {}
    for _ in range(_TRIES_PER_ARCHITECTURE * count):
        if len(found) == count:
            break
        architecture = draw()
        if not is_known(architecture):
            found[architecture] = None
    return list(found)
