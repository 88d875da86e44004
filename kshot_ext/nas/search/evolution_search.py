"""Evolutionary search for good architectures within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch

from kshot_ext.nas.checks import check_at_least, check_between, check_one_of
from kshot_ext.nas.extras import require
from kshot_ext.nas.networks.evaluation import SCORES, Scores
from kshot_ext.nas.randomness import draw_seed
from kshot_ext.nas.search.baselines import evolved_children, random_children
from kshot_ext.nas.search.latency_table import LatencyTable
from kshot_ext.nas.search.pareto import Evaluated, costs_of, pareto_front
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits, repair
from kshot_ext.nas.spaces.sampling import random_architectures
from kshot_ext.nas.spaces.space import SearchSpace, operation_shares
from kshot_ext.nas.training.divergence import DivergedError

Evaluate = Callable[[Architecture], Scores]

_METHODS = ("nsga2", "evolution", "random")
_WORST = 1e60  # of networks without numbers, which may be the cheapest; beyond float32, and pymoo wants no infinity
_COSTS = ("macs", "parameters", "latency", "bit_operations")


@dataclass(frozen=True)
class SearchSettings:
    """How long and how widely evolution searches.

    Args:
        population: architectures per generation, at least 2.
        generations: number of generations, the random first one included, at least 1.
        mutation_probability: chance of each choice (operation or width) to be drawn anew in a child.
        method: ``"nsga2"``, or to compare with, ``"evolution"`` of the best, or ``"random"`` search.
        objectives: what NSGA-II weighs against the score, separated by commas: ``macs``, ``parameters``, ``latency``,
            ``bit_operations``.

    Raises:
        ValueError: if a value is out of range.
    """

    population: int = 20
    generations: int = 8
    mutation_probability: float = 0.15
    method: str = "nsga2"
    objectives: str = "macs"

    def __post_init__(self) -> None:
        check_at_least("population", self.population, 2)
        check_at_least("generations", self.generations, 1)
        check_between("mutation_probability", self.mutation_probability, 0, 1)
        if self.method not in _METHODS:
            raise ValueError(f"method: expected one of {', '.join(_METHODS)}, got {self.method!r}")
        if not set(self.costs) <= set(_COSTS) or len(set(self.costs)) < len(self.costs):
            raise ValueError(f"objectives: expected different ones of {', '.join(_COSTS)}, got {self.objectives!r}")

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives besides the score, by name."""
        return tuple(name.strip() for name in self.objectives.split(","))


@dataclass(frozen=True)
class GenerationReport:
    """What one generation found.

    Args:
        generation: its number, from 1.
        evaluated: architectures evaluated for the first time.
        best: the best architecture so far.
        mean: mean scores of the population after the generation, of those that have any.
        operation_shares: share of each operation's name in the population.
    """

    generation: int
    evaluated: tuple[Evaluated, ...]
    best: Evaluated
    mean: Scores
    operation_shares: dict[str, float]


class EvolutionSearch:
    """NSGA-II over a score (better) and costs (down) within hard limits, a generation at a time; or a plainer method.

    No architecture is evaluated twice, and none that breaks a limit is evaluated at all.

    Args:
        evaluate: gives an architecture's scores; a network that gives no numbers ranks last.
        space: the space to search.
        limits: limits that every evaluated architecture meets.
        settings: population, generations, mutation, method, objectives.
        generator: source of every random choice.
        apply_to_all: applies ``evaluate`` to a population, in order: `map`, or what shares the work out as
            :class:`kshot_ext.nas.search.ray_map.RayMap` does.
        score: which score ranks architectures, ``"loss"`` or ``"accuracy"``.

    Attributes:
        on_evaluated: called after each evaluation.

    Raises:
        ValueError: if no architecture meets the limits, latency is an objective and ``limits`` cannot tell it, or the
            score is another.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        space: SearchSpace,
        limits: SearchLimits,
        settings: SearchSettings,
        generator: torch.Generator,
        apply_to_all: Callable[[Evaluate, Sequence[Architecture]], Iterable[Scores]] = map,
        score: str = "loss",
    ) -> None:
        check_one_of("score", score, SCORES)
        limits.check_reachable(space)
        if "latency" in settings.costs and limits.latency is None:
            raise ValueError("objectives: latency needs limits.latency, which tells an architecture's milliseconds")
        self.evaluate = evaluate
        self.space = space
        self.limits = limits
        self.settings = settings
        self.generator = generator
        self.apply_to_all = apply_to_all
        self.score = score
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
        """The best architecture so far; of equals, the one with the fewest multiply-accumulates and bit operations."""
        if not self._results:
            raise RuntimeError("best: nothing has been evaluated yet; call step() first")
        return self.best_first()[0]

    def best_first(self) -> list[Evaluated]:
        """Everything evaluated, by its merit; of equals, what :attr:`best` says comes first."""
        return sorted(self.history, key=lambda result: (-result.merit, result.macs, result.bit_operations))

    @property
    def pareto_front(self) -> tuple[Evaluated, ...]:
        """The evaluated architectures that no other beats at equal or lower costs, cheapest first."""
        return pareto_front(self.history, self.settings.costs)

    def step(self) -> GenerationReport:
        """Runs one generation.

        Raises:
            RuntimeError: if the search has finished.
            DivergedError: if no network of the first generation gives numbers.
        """
        if self.finished:
            raise RuntimeError(f"step: the search has finished its {self.settings.generations} generations")
        known = len(self._results)
        self._population = self._next_population() if self._population else self._first_population()
        self.generation += 1
        return GenerationReport(
            generation=self.generation,
            evaluated=self.history[known:],
            best=self.best,
            mean=Scores.mean(self._results[architecture].scores for architecture in self._population),
            operation_shares=operation_shares(self.space, self._population),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on as if never stopped: tensors and plain values."""
        return {
            "generation": self.generation,
            "population": [architecture.to_json() for architecture in self._population],
            # Latencies too: another process would not measure the same.
            "results": [
                (result.architecture.to_json(), *astuple(result.scores), result.latency) for result in self.history
            ],
            "generator": self.generator.get_state(),
            "latencies": self._latency_table.state_dict() if self._latency_table else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken.

        Raises:
            ValueError: if an architecture of the state is not of this space.
        """
        self.generation = state["generation"]
        self._population = [Architecture.from_json(text) for text in state["population"]]
        self._results = {}
        for text, *scores, latency in state["results"]:
            self._record(Architecture.from_json(text), Scores(*scores), latency)
        self.generator.set_state(state["generator"])
        if self._latency_table and state["latencies"] is not None:
            self._latency_table.load_state_dict(state["latencies"])

    @property
    def _latency_table(self) -> LatencyTable | None:
        return self.limits.latency if isinstance(self.limits.latency, LatencyTable) else None

    def _first_population(self) -> list[Architecture]:
        population = random_architectures(self.space, self.limits, self.settings.population, self.generator)
        self._evaluate_all(population)
        if not any(result.scores.finite for result in self.history):
            raise DivergedError(
                f"all {len(population)} networks of the first generation give NaN or infinity for images: the weights "
                "that they inherit have diverged; train the supernet with a lower learning_rate or clip_norm"
            )
        return population

    def _next_population(self) -> list[Architecture]:
        if self.settings.method == "nsga2":
            return self._evolve()
        size = self.settings.population
        parents = [result.architecture for result in self.best_first()[:size]]
        how = {
            "repair": lambda child: repair(child, self.space, self.limits, self.generator),
            "is_known": self._results.__contains__,
            "generator": self.generator,
        }
        if self.settings.method == "evolution":
            children = evolved_children(parents, self.space, size, self.settings.mutation_probability, **how)
        else:
            children = random_children(self.space, size, **how)
        self._evaluate_all(children)
        return children or self._population

    def _evolve(self) -> list[Architecture]:
        require("pymoo")
        from kshot_ext.nas.search.nsga2 import Generation

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
        rows = np.array(
            [(-result.merit, *costs_of(result, self.settings.costs)) for result in results], dtype=np.float64
        )
        rows[[not result.scores.finite for result in results]] = _WORST
        return rows

    def _evaluate_all(self, architectures: Sequence[Architecture]) -> None:
        for architecture, scores in zip(architectures, self.apply_to_all(self.evaluate, architectures), strict=True):
            latency = None if self.limits.latency is None else self.limits.latency(architecture)
            self._record(architecture, scores, latency)
            self.on_evaluated()

    def _record(self, architecture: Architecture, scores: Scores, latency: float | None) -> None:
        cost = self.space.cost(architecture)
        self._results[architecture] = Evaluated(
            architecture, scores, cost.macs, cost.parameters, latency, self.score, cost.bit_operations
        )
