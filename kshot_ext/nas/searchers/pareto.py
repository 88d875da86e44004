"""Evaluated architectures, and the best trades among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.spaces.architecture import Architecture


@dataclass(frozen=True)
class Evaluated:
    """An architecture with its score and cost.

    Args:
        architecture: what was evaluated.
        scores: of its network with the supernet's weights.
        macs: multiply-accumulates for one image.
        parameters: trainable numbers of its plain network.
        latency: its milliseconds, as predicted; None if no latency is known.
        score: which of the scores ranks it, ``"loss"`` or ``"accuracy"``.
        bit_operations: for one image, of its quantised layers.
    """

    architecture: Architecture
    scores: Scores
    macs: int
    parameters: int
    latency: float | None = None
    score: str = "loss"
    bit_operations: int = 0

    @property
    def merit(self) -> float:
        """What ranks it, the higher the better; see `Scores.merit`."""
        return self.scores.merit(self.score)


def pareto_front(results: Sequence[Evaluated], costs: Sequence[str] = ("macs",)) -> tuple[Evaluated, ...]:
    """The results that no other equals or beats in merit at equal or lower costs, cheapest first; those only whose
    networks give numbers.

    Args:
        results: what to choose from; of equal ones the first is kept.
        costs: names of the costs that count, fields of :class:`Evaluated`.

    Example:
        >>> path = Architecture((0,))
        >>> losses_and_costs = [(0.3, 30), (0.9, 20), (0.6, 10)]
        >>> results = [Evaluated(path, Scores(0.8, loss), macs, 1) for loss, macs in losses_and_costs]
        >>> [result.macs for result in pareto_front(results)]
        [10, 30]
    """
    front: list[Evaluated] = []
    for result in sorted(results, key=lambda result: (*costs_of(result, costs), -result.merit)):
        if result.scores.finite and not any(_covers(other, result, costs) for other in front):
            front.append(result)
    return tuple(front)


def _covers(one: Evaluated, other: Evaluated, costs: Sequence[str]) -> bool:
    cheap = all(cost <= others for cost, others in zip(costs_of(one, costs), costs_of(other, costs)))
    return cheap and one.merit >= other.merit


def costs_of(result: Evaluated, names: Sequence[str]) -> tuple[float, ...]:
    """The named costs of a result."""
    return tuple(getattr(result, name) for name in names)
