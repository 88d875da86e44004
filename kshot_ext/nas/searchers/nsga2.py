"""NSGA-II: a population that trades the score against costs.

Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kshot_ext.nas.extras import require
from kshot_ext.nas.randomness import draw_seed
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.pareto import costs_of
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.spaces.architecture import Architecture

if TYPE_CHECKING:
    from kshot_ext.nas.searchers.nsga2_generation import Generation

_WORST = 1e60  # of networks without numbers, which may be the cheapest; beyond float32, and pymoo wants no infinity


class NSGA2(Searcher):
    """Children of a population whose best fronts survive: merit up, costs down.

    Its first population is what the archive holds when it is first asked.

    Args:
        mutation_probability: chance of each choice to be drawn anew in a child.
        costs: names of the costs, fields of :class:`kshot_ext.nas.searchers.pareto.Evaluated`.

    Raises:
        MissingExtraError: if pymoo is not installed.
    """

    def __init__(self, mutation_probability: float, costs: Sequence[str] = ("macs",)) -> None:
        require("pymoo")  # now, and not when a supernet has been trained
        self.mutation_probability = mutation_probability
        self.costs = tuple(costs)
        self._population: list[Architecture] = []
        self._generation: Generation | None = None

    def ask(self, archive: Archive, count: int) -> list[Architecture]:
        """New children, at most as many as there are parents, and at most ``count``."""
        from kshot_ext.nas.searchers.nsga2_generation import Generation

        space = archive.space
        parents = self._population or [result.architecture for result in archive.history]
        self._population = parents
        self._generation = Generation(
            [space.genes(architecture) for architecture in parents],
            self._objectives(archive, parents),
            num_children=min(count, len(parents)),
            num_choices=space.num_choices,
            repair=lambda genes: space.genes(archive.repair(space.from_genes(genes))),
            is_known=lambda genes: space.from_genes(genes) in archive,
            mutation_probability=self.mutation_probability,
            seed=draw_seed(archive.generator),
        )
        return [space.from_genes(genes) for genes in self._generation.children()]

    def survivors(self, archive: Archive, asked: Sequence[Architecture]) -> list[Architecture]:
        if self._generation is not None and asked:
            survivors = self._generation.survivors(self._objectives(archive, asked))
            self._population = [archive.space.from_genes(genes) for genes in survivors]
            self._generation = None
        return self._population or list(asked)

    def state_dict(self) -> dict[str, Any]:
        return {"population": [architecture.to_json() for architecture in self._population]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._population = [Architecture.from_json(text) for text in state["population"]]
        self._generation = None

    def _objectives(self, archive: Archive, architectures: Sequence[Architecture]) -> np.ndarray:
        results = [archive[architecture] for architecture in architectures]
        rows = np.array([(-result.merit, *costs_of(result, self.costs)) for result in results], dtype=np.float64)
        rows[[not result.scores.finite for result in results]] = _WORST
        return rows
