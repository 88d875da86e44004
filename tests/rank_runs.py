"""Rankings small enough for unit tests: what several files of tests look at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kshot_ext.nas.ranking import ranking
from kshot_ext.nas.training.loop import TrainingLoop

SETTINGS = """
shots = 2
channels = 4
max_images = 200
epochs = 3
architectures = 4
checkpoints = 2
[method]
simplex_every = 1
paths_per_simplex_step = 2
[training]
warmup_epochs = 1
average_decay = 0.9
"""
STEPS = 7  # two epochs, two evaluations of two architectures each; the third epoch, and two evaluations more


@contextmanager
def small_steps() -> Iterator[None]:
    """Two architectures between two checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_ARCHITECTURES_PER_STEP", 2)
        yield


def entry_of(file: Path) -> dict[str, object]:
    (entry,) = json.loads(file.read_text())["runs"]
    return entry


def recorded_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a ranking does from now on, in order."""
    calls: list[str] = []
    train, evaluate, averaged = TrainingLoop.train_epoch, ranking.Ranking.step, TrainingLoop.averaged

    @contextmanager
    def recorded(trainer: TrainingLoop) -> Iterator[None]:
        calls.append("averages in")
        with averaged(trainer):
            yield
        calls.append("averages out")

    monkeypatch.setattr(TrainingLoop, "averaged", recorded)
    monkeypatch.setattr(TrainingLoop, "train_epoch", lambda *args: calls.append("train") or train(*args))
    monkeypatch.setattr(ranking.Ranking, "step", lambda *args: calls.append("evaluate") or evaluate(*args))
    return calls
