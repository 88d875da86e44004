"""Evaluating many architectures in a supernet and comparing the ranking with the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import torch

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation, rank_correlation
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.training.divergence import DivergedError

_ARCHITECTURES_PER_STEP = 10


def choose_architectures(
    space: SearchSpace, truth: Mapping[Architecture, float], count: int, generator: torch.Generator
) -> list[Architecture]:
    """Different random architectures of a table; the same ones in whatever order the table lists them.

    Raises:
        ValueError: if the table has fewer.
    """
    if count > len(truth):
        raise ValueError(f"architectures: expected at most the {len(truth)} of the table, got {count}")
    ordered = sorted(truth, key=space.genes)
    return [ordered[index] for index in torch.randperm(len(ordered), generator=generator)[:count].tolist()]


class Ranking:
    """Evaluates architectures, some at a time; complete in its ``state_dict``.

    Args:
        architectures: what to evaluate.
        evaluate: gives an architecture's scores.
        apply_to_all: applies ``evaluate`` to all that are left, in order: `map`, or what shares the work out as
            :class:`kshot_ext.nas.searchers.ray_map.RayMap` does. Its results are taken as they come, a few for each
            step, so that however many workers there are, none waits for the end of a step.

    Attributes:
        on_evaluated: called after each evaluation with the architecture's place, itself, and its scores.
    """

    def __init__(
        self,
        architectures: Sequence[Architecture],
        evaluate: Callable[[Architecture], Scores],
        apply_to_all: Callable[..., Iterable[Scores]] = map,
    ) -> None:
        self.architectures = tuple(architectures)
        self._evaluate = evaluate
        self._apply_to_all = apply_to_all
        self.scores: list[Scores] = []
        self.on_evaluated: Callable[[int, Architecture, Scores], object] = lambda number, architecture, scores: None
        self._coming: Iterator[Scores] | None = None  # of all architectures without scores

    @property
    def num_steps(self) -> int:
        """Number of calls of :meth:`step` in all."""
        return -(-len(self.architectures) // _ARCHITECTURES_PER_STEP)

    @property
    def steps_done(self) -> int:
        """Number of calls of :meth:`step` so far."""
        return -(-len(self.scores) // _ARCHITECTURES_PER_STEP)

    def step(self, on_move: Callable[[float], None]) -> None:
        """Evaluate the next few architectures; ``on_move`` is told the position in steps, fractions included.

        Raises:
            DivergedError: if none so far gives finite numbers.
        """
        left = self.architectures[len(self.scores) :]
        if self._coming is None:
            self._coming = iter(self._apply_to_all(self._evaluate, left))
        for architecture in left[:_ARCHITECTURES_PER_STEP]:
            self.scores.append(next(self._coming))
            self.on_evaluated(len(self.scores) - 1, architecture, self.scores[-1])
            on_move(len(self.scores) / _ARCHITECTURES_PER_STEP)
        if not any(scores.finite for scores in self.scores):
            raise DivergedError(
                f"all {len(self.scores)} networks evaluated so far give NaN or infinity for images: the weights that "
                "they inherit have diverged; train the supernet with a lower learning_rate or clip_norm"
            )

    def by(self, score: str, truth: Mapping[Architecture, float], costs: Sequence[float]) -> RankCorrelation:
        """The ranking by a score, ``"loss"`` or ``"accuracy"``, against the truth, when all are evaluated."""
        merits = [scores.merit(score) for scores in self.scores]
        return rank_correlation([truth[architecture] for architecture in self.architectures], merits, costs)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs: plain values."""
        return {"scores": [astuple(scores) for scores in self.scores]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken, of a ranking of the same architectures."""
        self.scores = [Scores(*values) for values in state["scores"]]
        self._coming = None


class RankingStage(Stage):
    """Evaluation after an epoch of training."""

    headline = ("mean_loss", "mean_accuracy")

    def __init__(self, epoch: int, ranking: Ranking) -> None:
        super().__init__(f"evaluation-{epoch}", f"evaluate after epoch {epoch}", ranking, ranking.num_steps)

    @property
    def done(self) -> int:
        return self.work.steps_done

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        self.work.step(on_move)
        mean = Scores.mean(self.work.scores)
        return {"evaluated": len(self.work.scores), "mean_loss": mean.loss, "mean_accuracy": mean.accuracy}
