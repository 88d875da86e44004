"""A stage of a run: work that advances step by step and can be stopped after any step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class Stage(ABC):
    """Work of some steps.

    Args:
        name: identifies it in the run folder.
        title: names it for people.
        work: what does the steps; keeps all state, see `state_dict` and `load_state_dict`.
        total: number of steps; None for a stage with a property of its own for it.

    Attributes:
        unit: what a step is called in messages.
        headline: which of a step's numbers are shown while it runs.
    """

    unit: str = "step"
    headline: tuple[str, ...] = ("loss", "accuracy")

    def __init__(self, name: str, title: str, work: Any, total: int | None = None) -> None:
        self.name = name
        self.title = title
        self.work = work
        self._total = total

    @property
    def total(self) -> int:
        """Number of steps; a stage that knows it only when the stages before have ended says it here."""
        if self._total is None:
            raise NotImplementedError(f"{type(self).__name__}: expected a number of steps, or a property that tells it")
        return self._total

    @property
    @abstractmethod
    def done(self) -> int:
        """Number of steps done."""

    @abstractmethod
    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        """Do one step.

        Args:
            on_move: called with the position within the stage, in steps, fractions included.

        Returns:
            Numbers to record.
        """
