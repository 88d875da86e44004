"""Accuracies of several trainings summed up, and the winner beside its rivals by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Test accuracies of several trainings, summed up.

    Args:
        mean: of them.
        deviation: their standard deviation, sqrt(sum (x - mean)^2 / (n - 1)); None of a single one.
        count: how many there are, n.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of some numbers, one at the least.

        Example:
            >>> Spread.of([0.5, 0.7, 0.9])
            Spread(mean=0.7..., deviation=0.2, count=3)
        """
        count = len(values)
        mean = math.fsum(values) / count
        if count == 1:
            return cls(mean, None, 1)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)), count)

    def __str__(self) -> str:
        """For people."""
        return f"{self.mean:.2%}" if self.deviation is None else f"{self.mean:.2%} ± {100 * self.deviation:.2f}"


@dataclass(frozen=True)
class Comparison:
    """The winner beside its random rivals.

    A rival's accuracy varies with its architecture and with the luck of its training, the winner's with luck alone: so
    the winner is trained several times, each rival once, and another rival says more than another training of one.

    Args:
        winner: over its trainings.
        rivals: over the rivals.
    """

    winner: Spread
    rivals: Spread

    @property
    def difference(self) -> float:
        """How far the winner's mean is above that of its rivals."""
        return self.winner.mean - self.rivals.mean

    @property
    def standard_error(self) -> float | None:
        """Of the difference, sqrt(s_w^2 / n_w + s_r^2 / n_r); None where one side is a single training."""
        sides = self.winner, self.rivals
        if any(side.deviation is None for side in sides):
            return None
        return math.sqrt(sum(side.deviation**2 / side.count for side in sides if side.deviation is not None))

    def to_json(self) -> dict[str, Any]:
        """For ``results.json``."""
        numbers = {"difference": self.difference, "standard_error": self.standard_error}
        return {"winner": asdict(self.winner), "rivals": asdict(self.rivals), **numbers}
