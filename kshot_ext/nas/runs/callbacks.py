"""What a run tells its caller while it goes on: stages, epochs, and architectures as they are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from kshot_ext.nas.runs.results import ConsideredNetwork


@dataclass(frozen=True)
class EpochEvent:
    """One step of a stage has been done and saved.

    Args:
        stage: name of the stage: ``"supernet"``, ``"search"``, ``"retrain-winner"``, ...
        unit: what a step of it is: ``"epoch"`` of a training, ``"generation"`` of a search.
        step: how many steps of the stage are done.
        total: how many it has.
        numbers: what was recorded of the step, as in ``metrics.jsonl``.
    """

    stage: str
    unit: str
    step: int
    total: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class StageEvent:
    """A stage begins, is gone on with, or has ended.

    Args:
        stage: its name.
        title: what people call it.
        done: how many of its steps are done; above 0 at the beginning where an earlier process did some.
        total: how many it has.
        seconds: that it has taken, in all processes together.
        ended: whether it has ended.
    """

    stage: str
    title: str
    done: int
    total: int
    seconds: float
    ended: bool


@dataclass(frozen=True)
class Callbacks:
    """What is called as a run goes on; whatever they raise ends the run, which can be resumed.

    A step is told once it is saved, so by one process only. What an earlier process did is not told again.

    Args:
        on_epoch: called after each step of a stage.
        on_evaluated: called after each architecture that was evaluated with the supernet's weights.
        on_stage: called at the beginning and at the end of each stage.

    Raises:
        TypeError: if one cannot be called: better at once than after the first epoch.
    """

    on_epoch: Callable[[EpochEvent], object] = lambda event: None
    on_evaluated: Callable[[ConsideredNetwork], object] = lambda network: None
    on_stage: Callable[[StageEvent], object] = lambda event: None

    def __post_init__(self) -> None:
        for field in fields(self):
            if not callable(given := getattr(self, field.name)):
                raise TypeError(f"{field.name}: expected a function, got {given!r}; leave it out for none")


SILENT = Callbacks()
