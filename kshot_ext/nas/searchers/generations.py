"""A search in generations: a searcher is asked, and what it asks for is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kshot_ext.nas.checks import check_at_least, check_between, check_one_of
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.evolution import Evolution
from kshot_ext.nas.searchers.nsga2 import NSGA2
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.searchers.random_search import RandomSearch
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.searchers.tpe import TreeStructuredParzenEstimator
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.sampling import random_architectures
from kshot_ext.nas.spaces.space import operation_shares
from kshot_ext.nas.training.divergence import DivergedError

_COSTS = ("macs", "parameters", "latency", "bit_operations")


@dataclass(frozen=True)
class SearchSettings:
    """How long and how widely a search goes, and what chooses the architectures.

    Args:
        population: architectures per generation, at least 2.
        generations: number of generations, the random first one included, at least 1.
        mutation_probability: chance of each choice (operation or width) to be drawn anew in a child.
        method: a searcher, see :data:`SEARCHERS`: ``"nsga2"``, which weighs costs too; of the score alone plain
            ``"evolution"``, ``"tpe"``, which models good and bad choices (for which ``pip install
            'kshot_ext[tpe]'``), or ``"random"`` search.
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
        check_one_of("method", self.method, SEARCHERS)
        if not set(self.costs) <= set(_COSTS) or len(set(self.costs)) < len(self.costs):
            raise ValueError(f"objectives: expected different ones of {', '.join(_COSTS)}, got {self.objectives!r}")

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives besides the score, by name."""
        return tuple(name.strip() for name in self.objectives.split(","))

    def searcher(self) -> Searcher:
        """A searcher that has not been asked yet."""
        return SEARCHERS[self.method](self)


SEARCHERS: Mapping[str, Callable[[SearchSettings], Searcher]] = {
    "nsga2": lambda settings: NSGA2(settings.mutation_probability, settings.costs),
    "evolution": lambda settings: Evolution(settings.mutation_probability),
    "tpe": lambda settings: TreeStructuredParzenEstimator(),
    "random": lambda settings: RandomSearch(),
}
"""What chooses architectures, by the names that settings use."""


@dataclass(frozen=True)
class GenerationReport:
    """What one generation found.

    Args:
        generation: its number, from 1; of an early end that of the last one that there would have been.
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


class Generations:
    """A searcher's generations, a step each; they end early where the searcher has nothing new to ask for.

    Args:
        archive: evaluates within its limits, and keeps what is found; what it holds already counts.
        settings: population, generations, and the searcher.
        searcher: chooses the architectures of all generations, the first one, too; None for the one that settings
            name, after random ones.

    Attributes:
        generation: how many have been done.

    Raises:
        ValueError: if latency is an objective, and the archive's limits cannot tell it; or if fewer architectures than
            a population meet the limits.
    """

    def __init__(self, archive: Archive, settings: SearchSettings, searcher: Searcher | None = None) -> None:
        if "latency" in settings.costs and archive.limits.latency is None:
            raise ValueError("objectives: latency needs limits.latency, which tells an architecture's milliseconds")
        # Now, and not when a supernet has been trained; the archive's own random numbers stay as they are.
        rehearsal = torch.Generator().manual_seed(0)
        random_architectures(archive.space, archive.limits, settings.population, rehearsal)
        self.archive = archive
        self.settings = settings
        self.searcher = searcher or settings.searcher()
        self._begins_at_random = searcher is None
        self.generation = 0
        self._population: list[Architecture] = []

    @property
    def finished(self) -> bool:
        """Whether all generations are done."""
        return self.generation >= self.settings.generations

    @property
    def results(self) -> list[Evaluated]:
        """What is found: the best architecture so far."""
        return [self.archive.best]

    def step(self) -> GenerationReport:
        """Runs one generation.

        Raises:
            RuntimeError: if the search has finished.
            DivergedError: if no network of the first generation gives numbers.
        """
        if self.finished:
            raise RuntimeError(f"step: the search has finished its {self.settings.generations} generations")
        archive, size = self.archive, self.settings.population
        if self.generation == 0 and self._begins_at_random:
            asked = random_architectures(archive.space, archive.limits, size, archive.generator)
        else:
            asked = self.searcher.ask(archive, size)
        known = len(archive)
        archive.evaluate(asked)
        self._check_any_finite()
        if asked:
            self._population = self.searcher.survivors(archive, asked)
        self.generation = self.generation + 1 if asked else self.settings.generations
        return GenerationReport(
            generation=self.generation,
            evaluated=archive.history[known:],
            best=archive.best,
            mean=Scores.mean(archive[architecture].scores for architecture in self._population),
            operation_shares=operation_shares(archive.space, self._population),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on as if never stopped: tensors and plain values."""
        return {
            "generation": self.generation,
            "population": [architecture.to_json() for architecture in self._population],
            "archive": self.archive.state_dict(),
            "searcher": self.searcher.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken.

        Raises:
            ValueError: if an architecture of the state is not of this space.
        """
        self.generation = state["generation"]
        self._population = [Architecture.from_json(text) for text in state["population"]]
        self.archive.load_state_dict(state["archive"])
        self.searcher.load_state_dict(state["searcher"])

    def _check_any_finite(self) -> None:
        if not any(result.scores.finite for result in self.archive.history):
            raise DivergedError(
                f"all {len(self.archive)} networks of the first generation give NaN or infinity for images: the "
                "weights that they inherit have diverged; train the supernet with a lower learning_rate or clip_norm"
            )
