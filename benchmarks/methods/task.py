"""Small trainings of supernets by several methods on one task, and how their networks score.

On CIFAR-10, scaled down, with a table of true accuracies; or, to see that a measurement runs, on scikit-learn's
digits, where the costs of networks stand in for a truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.ranking import mean_and_error
from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.method import MethodSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation, Scores
from kshot_ext.nas.ranking.ranking import choose_architectures
from kshot_ext.nas.runs.truth import read_truth
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.sampling import random_architectures
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.retrain import NetworkTrainer, RetrainSettings
from kshot_ext.nas.training.settings import TrainingSettings

_CHANNELS = 8
_HELD_OUT = 1 / 12  # of the images, to score networks on


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False)
class Task:
    """Images, a space, and what is known of some of its networks.

    Args:
        splits: to train on, and to score networks on.
        space: of the networks.
        architectures: the networks scored, always the same.
        truth: accuracy of each when trained on its own; on digits its multiply-accumulates.
    """

    splits: DataSplits
    space: SearchSpace
    architectures: Sequence[Architecture]
    truth: Mapping[Architecture, float]

    def train(self, method: MethodSettings, training: TrainingSettings, seed: int, **options: Any) -> TrainingLoop:
        """A finished training; options are those of :func:`kshot_ext.nas.methods.begin_training`."""
        loop = begin_training(method, self.space, self.splits, training, seed=seed, **options)
        while not loop.finished:
            loop.train_epoch()
        return loop

    def scores(self, loop: TrainingLoop) -> list[Scores]:
        """What the networks reach with the weights of a training, by the statistics of each batch."""
        splits = self.splits
        parts = splits.train, splits.validation, splits.mean, splits.std
        return list(map(InheritedEvaluation(loop.method.networks, *parts, "batch"), self.architectures))


def cifar_task(data: Path, truth: Path, space_name: str, *, side: int, images: int, count: int) -> Task:
    """CIFAR-10, scaled to a side, with a table of NAS-Bench-201, of one cell a stage, or NAS-Bench-Macro."""
    held_out = {Part.VALIDATION: _HELD_OUT}
    splits = load_splits(open_source(data), generator=_seeded(0), max_images=images, image_size=side, held_out=held_out)
    options = {"cells": 1} if space_name == "nas-bench-201" else {}
    space = create_space(
        space_name, image_shape=splits.image_shape, num_classes=splits.num_classes, channels=_CHANNELS, **options
    )
    table = read_truth(truth, space)
    return Task(splits, space, choose_architectures(space, table, count, _seeded(1)), table)


def digits_task(space_name: str, *, images: int | None = 240, count: int = 6, channels: int = 2) -> Task:
    """scikit-learn's digits at 8x8, by default so few that a task takes a second or two."""
    splits = load_splits(open_source(None), generator=_seeded(0), max_images=images)
    options = {"cells": 1} if space_name == "nas-bench-201" else {}
    space = create_space(
        space_name, image_shape=splits.image_shape, num_classes=splits.num_classes, channels=channels, **options
    )
    paths = random_architectures(space, SearchLimits(), count, _seeded(1))
    return Task(splits, space, paths, {path: float(space.count_macs(path)) for path in paths})


def add_numbers(found: dict[str, list[float]], numbers: Mapping[str, float]) -> None:
    """Puts what one seed gave behind what the seeds before gave, by name; `over_seeds` then tells of each."""
    for name, value in numbers.items():
        found.setdefault(name, []).append(value)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Values of several seeds, their mean and its standard error, None of a single one."""
    mean, error = mean_and_error(values)
    return {"mean": mean, "standard_error": error, "values": list(values)}


def trained_anew(
    space: SearchSpace, architecture: Architecture, splits: DataSplits, epochs: int, batch_size: int, seed: int
) -> float:
    """Test accuracy of an architecture trained from scratch."""
    generator = _seeded(seed)
    settings = RetrainSettings(epochs=epochs, batch_size=batch_size)
    trainer = NetworkTrainer(space.build(architecture, generator), splits, settings, generator)
    while not trainer.finished:
        trainer.train_epoch()
    return trainer.test_accuracy()
