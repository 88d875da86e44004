"""What teachers from a board are worth: the accuracy of random networks with inherited weights, at equal steps.

python -m benchmarks.methods observable cream --data cifar10_train.zip --truth nas_bench_macro_cifar10_half.json
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods.task import Task, cifar_task, digits_task, over_seeds
from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.methods.cream import CreamSettings
from kshot_ext.nas.methods.method import MethodSettings
from kshot_ext.nas.ranking.rank_correlation import rank_correlation
from kshot_ext.nas.training.settings import TrainingSettings

SPACE = "nas-bench-macro"
_ARMS = {
    "uniform": METHODS["spos"].Settings(),
    "untrained matching": CreamSettings(matching_learning_rate=0.0),
    "cream": CreamSettings(),
}


def run(
    seeds: Sequence[int], quick: bool = False, data: Path | None = None, truth: Path | None = None
) -> dict[str, Any]:
    """Mean held-out accuracy and loss of fixed random networks, and where the board's best stands by the table.

    On CIFAR-10 networks learn little in so few steps; on digits, whose costs stand in for a truth, nearly all there is.

    Args:
        seeds: decide weights, paths and batches.
        quick: a training of a step or two.
        data, truth: CIFAR-10's training images and the table; None for digits in their place, too.
    """
    full = data is not None and truth is not None and not quick
    cifar = cifar_task(data, truth, SPACE, side=16, images=8_000, count=60) if full else digits_task(SPACE)
    digits = digits_task(SPACE, images=None, count=60, channels=8) if full else digits_task(SPACE)
    epochs = {"cifar-10": 6, "digits": 60} if full else dict.fromkeys(("cifar-10", "digits"), 2)
    tasks = {name: _arms(task, epochs[name], seeds) for name, task in (("cifar-10", cifar), ("digits", digits))}
    return {"space": SPACE, "networks": len(cifar.architectures), "tasks": tasks}


def _arms(task: Task, epochs: int, seeds: Sequence[int]) -> dict[str, Any]:
    rise = 100 if epochs > 2 else 0
    training = TrainingSettings(epochs=epochs, batch_size=64, learning_rate=0.1, rise_steps=rise, held_out_share=0.05)
    return {arm: _arm(task, training, seeds, settings) for arm, settings in _ARMS.items()}


def _arm(task: Task, training: TrainingSettings, seeds: Sequence[int], settings: MethodSettings) -> dict[str, Any]:
    found: dict[str, list[float]] = {"accuracy": [], "loss": [], "tau": []}
    boards: dict[str, list[float]] = {"board best: share of the table below": [], "board: mean share of MACs": []}
    for seed in seeds:
        loop = task.train(settings, training, seed)
        scores = task.scores(loop)
        found["accuracy"].append(statistics.fmean(score.accuracy for score in scores))
        found["loss"].append(statistics.fmean(score.loss for score in scores))
        truth = [task.truth[path] for path in task.architectures]
        found["tau"].append(rank_correlation(truth, [score.merit("loss") for score in scores]).kendall_tau)
        if isinstance(settings, CreamSettings):
            for name, value in zip(boards, _board_numbers(task, loop)):
                boards[name].append(value)
    numbers = found | {name: values for name, values in boards.items() if values}
    steps = training.epochs * loop.steps_per_epoch
    return {"steps": steps, **{name: over_seeds(values) for name, values in numbers.items()}}


def _board_numbers(task: Task, loop: Any) -> tuple[float, float]:
    """Of the board's first path that the table knows, the share of the table that is worse; the mean cost of all."""
    board, values = loop.method.board.entries, list(task.truth.values())
    known = [task.truth[entry.path] for entry in board if entry.path in task.truth]
    below = sum(value < known[0] for value in values) / len(values) if known else 0.0
    largest = task.space.count_macs(task.space.largest())
    return below, statistics.fmean(entry.macs for entry in board) / largest
