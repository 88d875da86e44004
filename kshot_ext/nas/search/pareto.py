"""Evaluated architectures, and the best trades among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kshot_ext.nas.spaces.architecture import Architecture


@dataclass(frozen=True)
class Evaluated:
    """An architecture with its score and cost.

    Args:
        architecture: what was evaluated.
        accuracy: its score, 0 to 1; not a number if its network gives none.
        macs: multiply-accumulates for one image.
        parameters: trainable numbers of its plain network.
        latency: its milliseconds, as predicted; None if no latency is known.
    """

    architecture: Architecture
    accuracy: float
    macs: int
    parameters: int
    latency: float | None = None

    @property
    def merit(self) -> float:
        """What ranks it: its accuracy, and less than any where that is not a number."""
        return self.accuracy if math.isfinite(self.accuracy) else -1.0


def pareto_front(results: Sequence[Evaluated], costs: Sequence[str] = ("macs",)) -> tuple[Evaluated, ...]:
    """The results that no other equals or beats in accuracy at equal or lower costs, cheapest first; those only whose
    accuracy is a number.

    Args:
        results: what to choose from; of equal ones the first is kept.
        costs: names of the costs that count, fields of :class:`Evaluated`.

    Example:
        >>> path = Architecture((0,))
        >>> results = [Evaluated(path, 0.9, 30, 1), Evaluated(path, 0.7, 20, 1), Evaluated(path, 0.8, 10, 1)]
        >>> [result.macs for result in pareto_front(results)]
        [10, 30]
    """
    front: list[Evaluated] = []
    for result in sorted(results, key=lambda result: (*costs_of(result, costs), -result.merit)):
        if math.isfinite(result.accuracy) and not any(_covers(other, result, costs) for other in front):
            front.append(result)
    return tuple(front)


def _covers(one: Evaluated, other: Evaluated, costs: Sequence[str]) -> bool:
    cheap = all(cost <= others for cost, others in zip(costs_of(one, costs), costs_of(other, costs)))
    return cheap and one.accuracy >= other.accuracy


def costs_of(result: Evaluated, names: Sequence[str]) -> tuple[float, ...]:
    """The named costs of a result."""
    return tuple(getattr(result, name) for name in names)
