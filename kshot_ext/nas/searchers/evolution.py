"""Plain evolution of the best, by one score."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.spaces.architecture import Architecture


class Evolution(Searcher):
    """Half mutations of a random parent, half crossovers of two, the rest random; parents are the best so far.

    Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020.

    Args:
        mutation_probability: chance of each choice to be drawn anew in a mutation.
    """

    def __init__(self, mutation_probability: float) -> None:
        self.mutation_probability = mutation_probability

    def ask(self, archive: Archive, count: int) -> list[Architecture]:
        space, generator = archive.space, archive.generator
        genes = [space.genes(parent.architecture) for parent in archive.best_first()[:count]]

        def chosen() -> tuple[int, ...]:
            return genes[int(torch.randint(len(genes), (), generator=generator))]

        def mixed(one: Sequence[int], other: Sequence[int], probability: float) -> Architecture:
            takes_other = torch.rand(len(one), generator=generator) < probability
            return space.from_genes([b if take else a for a, b, take in zip(one, other, takes_other.tolist())])

        def mutation() -> Architecture:
            return mixed(chosen(), space.genes(space.sample(generator)), self.mutation_probability)

        def crossover() -> Architecture:
            return mixed(chosen(), chosen(), 0.5)

        children = archive.distinct(mutation, count // 2)
        children += archive.distinct(crossover, count - count // 2, besides=set(children))
        return children + archive.random(count - len(children), besides=set(children))
