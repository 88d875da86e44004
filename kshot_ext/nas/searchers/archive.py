"""Everything that a search has evaluated, and the limits within which it evaluates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any

import torch

from kshot_ext.nas.checks import check_one_of
from kshot_ext.nas.networks.evaluation import SCORES, Scores
from kshot_ext.nas.searchers.latency_table import LatencyTable
from kshot_ext.nas.searchers.pareto import Evaluated, pareto_front
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits, repair
from kshot_ext.nas.spaces.space import SearchSpace

Evaluate = Callable[[Architecture], Scores]

_TRIES_PER_ARCHITECTURE = 50


class Archive:
    """The architectures of a space that have been evaluated, in order; none twice, and none beyond a limit.

    Args:
        evaluate: gives an architecture's scores.
        space: where architectures come from.
        limits: limits that every evaluated architecture meets.
        generator: source of the random choices, of a searcher's too.
        apply_to_all: applies ``evaluate`` to several, in order: `map`, or what shares the work out as
            :class:`kshot_ext.nas.searchers.ray_map.RayMap` does.
        score: which score ranks architectures, ``"loss"`` or ``"accuracy"``.

    Raises:
        ValueError: if no architecture meets the limits, or the score is another.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=2)
        >>> archive = Archive(lambda a: Scores(0.5, 8 - sum(a.operations) / 4), space, SearchLimits())
        >>> results = archive.evaluate(archive.random(5))
        >>> archive.best.scores.loss == min(result.scores.loss for result in results)
        True
    """

    def __init__(
        self,
        evaluate: Evaluate,
        space: SearchSpace,
        limits: SearchLimits,
        generator: torch.Generator | None = None,
        apply_to_all: Callable[[Evaluate, Sequence[Architecture]], Iterable[Scores]] = map,
        score: str = "loss",
    ) -> None:
        check_one_of("score", score, SCORES)
        limits.check_reachable(space)
        self.space = space
        self.limits = limits
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.score = score
        self._listeners: list[Callable[[Evaluated], object]] = []
        self._evaluate = evaluate
        self._apply_to_all = apply_to_all
        self._results: dict[Architecture, Evaluated] = {}

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._results

    def __getitem__(self, architecture: Architecture) -> Evaluated:
        return self._results[architecture]

    @property
    def history(self) -> tuple[Evaluated, ...]:
        """Everything evaluated, in order."""
        return tuple(self._results.values())

    @property
    def best(self) -> Evaluated:
        """The best architecture so far; of equals, the one with the fewest multiply-accumulates and bit operations.

        Raises:
            RuntimeError: if nothing has been evaluated.
        """
        return self.best_first()[0]

    def best_first(self) -> list[Evaluated]:
        """Everything evaluated, by its merit; of equals, what :attr:`best` says comes first.

        Raises:
            RuntimeError: if nothing has been evaluated.
        """
        if not self._results:
            raise RuntimeError("archive: nothing has been evaluated yet; expected an evaluation first")
        return sorted(self.history, key=lambda result: (-result.merit, result.macs, result.bit_operations))

    def front(self, costs: Sequence[str] = ("macs",)) -> tuple[Evaluated, ...]:
        """The evaluated architectures that no other beats at equal or lower costs, cheapest first."""
        return pareto_front(self.history, costs)

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluated]:
        """The results of architectures, of which those are evaluated that have not been.

        Raises:
            ValueError: if one is beyond the limits; none is evaluated then.
        """
        new = [architecture for architecture in dict.fromkeys(architectures) if architecture not in self]
        for architecture in new:
            if not self.limits.admit(self.space, architecture):
                raise ValueError(
                    f"architectures: expected such with {self.limits}, got {architecture.short()}; repair() it first"
                )
        for architecture, scores in zip(new, self._apply_to_all(self._evaluate, new), strict=True):
            latency = None if self.limits.latency is None else self.limits.latency(architecture)
            self._record(architecture, scores, latency)
            for listener in self._listeners:
                listener(self[architecture])
        return [self._results[architecture] for architecture in architectures]

    @contextmanager
    def listening(self, listener: Callable[[Evaluated], object]) -> Iterator[None]:
        """Inside the context the listener is called after each evaluation, with its result."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def repair(self, architecture: Architecture) -> Architecture:
        """An architecture within the limits, by random changes where it is beyond them."""
        return repair(architecture, self.space, self.limits, self.generator)

    def random(self, count: int, besides: Collection[Architecture] = ()) -> list[Architecture]:
        """Random architectures that are to be evaluated yet; see :meth:`distinct`."""
        return self.distinct(lambda: self.space.sample(self.generator), count, besides)

    def distinct(
        self,
        draw: Callable[[], Architecture],
        count: int,
        besides: Collection[Architecture] = (),
        tries: int = _TRIES_PER_ARCHITECTURE,
    ) -> list[Architecture]:
        """Different architectures within the limits that are to be evaluated yet.

        Args:
            draw: proposes one; it is brought within the limits.
            count: how many at most; fewer where new ones have become rare.
            besides: what is not wanted either.
            tries: most proposals for each.
        """
        found: dict[Architecture, None] = {}
        for _ in range(tries * count):
            if len(found) == count:
                break
            architecture = self.repair(draw())
            if architecture not in self and architecture not in besides:
                found[architecture] = None
        return list(found)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on as if never stopped: tensors and plain values."""
        return {
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
        self._results = {}
        for text, *scores, latency in state["results"]:
            self._record(Architecture.from_json(text), Scores(*scores), latency)
        self.generator.set_state(state["generator"])
        if self._latency_table and state["latencies"] is not None:
            self._latency_table.load_state_dict(state["latencies"])

    @property
    def _latency_table(self) -> LatencyTable | None:
        return self.limits.latency if isinstance(self.limits.latency, LatencyTable) else None

    def _record(self, architecture: Architecture, scores: Scores, latency: float | None) -> None:
        cost = self.space.cost(architecture)
        self._results[architecture] = Evaluated(
            architecture, scores, cost.macs, cost.parameters, latency, self.score, cost.bit_operations
        )
