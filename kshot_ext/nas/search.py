"""Evolutionary search for accurate architectures within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.checks import check_at_least, check_between
from kshot_ext.nas.extras import require
from kshot_ext.nas.limits import SearchLimits, repair
from kshot_ext.nas.randomness import draw_seed
from kshot_ext.nas.sampling import random_architectures
from kshot_ext.nas.space import SearchSpace, operation_shares

Evaluate = Callable[[Architecture], float]


@dataclass(frozen=True)
class SearchSettings:
    """How long and how widely evolution searches.

    Args:
        population: architectures per generation, at least 2.
        generations: number of generations, the random first one included, at least 1.
        mutation_probability: chance of each choice (operation or width) to be drawn anew in a child.

    Raises:
        ValueError: if a value is out of range.
    """

    population: int = 20
    generations: int = 8
    mutation_probability: float = 0.15

    def __post_init__(self) -> None:
        check_at_least("population", self.population, 2)
        check_at_least("generations", self.generations, 1)
        check_between("mutation_probability", self.mutation_probability, 0, 1)


@dataclass(frozen=True)
class Evaluated:
    """An architecture with its score and cost.

    Args:
        architecture: what was evaluated.
        accuracy: its score, 0 to 1.
        macs: multiply-accumulates for one image.
        parameters: trainable numbers of its plain network.
    """

    architecture: Architecture
    accuracy: float
    macs: int
    parameters: int


@dataclass(frozen=True)
class GenerationReport:
    """What one generation found.

    Args:
        generation: its number, from 1.
        evaluated: architectures evaluated for the first time.
        best: the most accurate architecture so far.
        mean_accuracy: mean score of the population after the generation.
        operation_shares: share of each operation's name in the population.
    """

    generation: int
    evaluated: tuple[Evaluated, ...]
    best: Evaluated
    mean_accuracy: float
    operation_shares: dict[str, float]


class EvolutionSearch:
    """NSGA-II over accuracy (up) and multiply-accumulates (down) within hard limits, a generation at a time.

    No architecture is evaluated twice, and none that breaks a limit is evaluated at all.

    Args:
        evaluate: gives an architecture's accuracy, 0 to 1.
        space: the space to search.
        limits: limits that every evaluated architecture meets.
        settings: population, generations, mutation.
        generator: source of every random choice.
        apply_to_all: applies ``evaluate`` to a population, in order: `map`, or what shares the work out as
            :class:`kshot_ext.nas.ray_map.RayMap` does.

    Attributes:
        on_evaluated: called after each evaluation.

    Raises:
        ValueError: if no architecture meets the limits.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        space: SearchSpace,
        limits: SearchLimits,
        settings: SearchSettings,
        generator: torch.Generator,
        apply_to_all: Callable[[Evaluate, Sequence[Architecture]], Iterable[float]] = map,
    ) -> None:
        limits.check_reachable(space)
        self.evaluate = evaluate
        self.space = space
        self.limits = limits
        self.settings = settings
        self.generator = generator
        self.apply_to_all = apply_to_all
        self.on_evaluated: Callable[[], None] = lambda: None
        self.generation = 0
        self._results: dict[Architecture, Evaluated] = {}
        self._population: list[Architecture] = []

    @property
    def finished(self) -> bool:
        """Whether all generations are done."""
        return self.generation >= self.settings.generations

    @property
    def history(self) -> tuple[Evaluated, ...]:
        """Everything evaluated, in order."""
        return tuple(self._results.values())

    @property
    def best(self) -> Evaluated:
        """The most accurate architecture so far; of equals, the one with the fewest multiply-accumulates."""
        if not self._results:
            raise RuntimeError("best: nothing has been evaluated yet; call step() first")
        return min(self._results.values(), key=lambda result: (-result.accuracy, result.macs))

    @property
    def pareto_front(self) -> tuple[Evaluated, ...]:
        """The evaluated architectures that no other beats at equal or lower cost, cheapest first."""
        return pareto_front(self.history)

    def step(self) -> GenerationReport:
        """Runs one generation.

        Raises:
            RuntimeError: if the search has finished.
        """
        if self.finished:
            raise RuntimeError(f"step: the search has finished its {self.settings.generations} generations")
        known = len(self._results)
        self._population = self._evolve() if self._population else self._first_population()
        self.generation += 1
        population = [self._results[architecture] for architecture in self._population]
        return GenerationReport(
            generation=self.generation,
            evaluated=self.history[known:],
            best=self.best,
            mean_accuracy=sum(result.accuracy for result in population) / len(population),
            operation_shares=operation_shares(self.space, self._population),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on as if never stopped: tensors and plain values."""
        return {
            "generation": self.generation,
            "population": [architecture.to_json() for architecture in self._population],
            "results": [(result.architecture.to_json(), result.accuracy) for result in self.history],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken.

        Raises:
            ValueError: if an architecture of the state is not of this space.
        """
        self.generation = state["generation"]
        self._population = [Architecture.from_json(text) for text in state["population"]]
        self._results = {}
        for text, accuracy in state["results"]:
            self._record(Architecture.from_json(text), accuracy)
        self.generator.set_state(state["generator"])

    def _first_population(self) -> list[Architecture]:
        population = random_architectures(self.space, self.limits, self.settings.population, self.generator)
        self._evaluate_all(population)
        return population

    def _evolve(self) -> list[Architecture]:
        require("pymoo")
        from kshot_ext.nas.nsga2 import Generation

        generation = Generation(
            [self.space.genes(architecture) for architecture in self._population],
            self._objectives(self._population),
            num_choices=self.space.num_choices,
            repair=self._repair,
            is_known=lambda genes: self.space.from_genes(genes) in self._results,
            mutation_probability=self.settings.mutation_probability,
            seed=draw_seed(self.generator),
        )
        children = [self.space.from_genes(genes) for genes in generation.children()]
        if not children:
            return self._population
        self._evaluate_all(children)
        return [self.space.from_genes(genes) for genes in generation.survivors(self._objectives(children))]

    def _repair(self, genes: tuple[int, ...]) -> tuple[int, ...]:
        return self.space.genes(repair(self.space.from_genes(genes), self.space, self.limits, self.generator))

    def _objectives(self, architectures: Sequence[Architecture]) -> np.ndarray:
        results = [self._results[architecture] for architecture in architectures]
        return np.array([(-result.accuracy, result.macs) for result in results], dtype=np.float64)

    def _evaluate_all(self, architectures: Sequence[Architecture]) -> None:
        for architecture, accuracy in zip(architectures, self.apply_to_all(self.evaluate, architectures), strict=True):
            self._record(architecture, accuracy)
            self.on_evaluated()

    def _record(self, architecture: Architecture, accuracy: float) -> None:
        cost = self.space.cost(architecture)
        self._results[architecture] = Evaluated(architecture, accuracy, cost.macs, cost.parameters)


def pareto_front(results: Sequence[Evaluated]) -> tuple[Evaluated, ...]:
    """The results that no other beats in accuracy at equal or lower cost, cheapest first.

    Example:
        >>> path = Architecture((0,))
        >>> results = [Evaluated(path, 0.9, 30, 1), Evaluated(path, 0.7, 20, 1), Evaluated(path, 0.8, 10, 1)]
        >>> [result.macs for result in pareto_front(results)]
        [10, 30]
    """
    front: list[Evaluated] = []
    for result in sorted(results, key=lambda result: (result.macs, -result.accuracy)):
        if not front or result.accuracy > front[-1].accuracy:
            front.append(result)
    return tuple(front)
