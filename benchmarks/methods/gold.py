"""The series of networks that gradual pruning leaves, against random ones of equal cost, each trained anew.

python -m benchmarks.methods observable gold --data cifar10_train.zip
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.task import over_seeds, trained_anew
from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.gold_nas import GoldNAS, GoldNASSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.sampling import random_architecture_of_equal_budget
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.settings import TrainingSettings

_MOST_TRAINED = 4  # of the results of a run, evenly by cost
_TOLERANCE = 0.1


def run(seeds: Sequence[int], quick: bool = False, data: Path | None = None) -> dict[str, Any]:
    """What each run's results cost and reach, and what random networks of equal cost do.

    Args:
        seeds: decide weights, batches and the random networks.
        quick: a training of a few steps on digits.
        data: CIFAR-10's training images; None for digits.
    """
    full = data is not None and not quick
    splits = load_splits(
        open_source(data if full else None),
        generator=torch.Generator().manual_seed(0),
        max_images=6_000 if full else 300,
        image_size=16 if full else None,
        held_out={Part.VALIDATION: 0.05, Part.TEST: 0.5},  # networks of equal cost differ by little
    )
    space = create_space(
        "nas-bench-201",
        image_shape=splits.image_shape,
        num_classes=splits.num_classes,
        channels=8 if full else 2,
        cells=1,
    )
    training = TrainingSettings(
        epochs=24 if full else 2, batch_size=64, learning_rate=0.05, held_out_share=0.02, label_smoothing=0.0
    )
    settings = GoldNASSettings(prune_every=0.25, pressure=1e-3, mac_cost=0.2, stable=1, prunings=1)
    if not full:
        settings = GoldNASSettings(prune_every=0.25, pressure=1.0, mac_cost=1.0, stable=0, prunings=4)
    return {"runs": [_run_of(space, splits, training, settings, seed) for seed in seeds]} | {"space": space.name}


def _run_of(
    space: SearchSpace, splits: DataSplits, training: TrainingSettings, settings: GoldNASSettings, seed: int
) -> dict[str, Any]:
    loop = begin_training(settings, space, splits, training, seed=seed)
    method: GoldNAS = loop.method
    numbers = []
    while not loop.finished:
        report = loop.train_epoch()
        numbers.append({"accuracy": report.accuracy, **report.numbers})
    sets = method.result_space
    costs = [sets.count_macs(architecture) for architecture in method.found]
    chosen = method.found if len(costs) <= _MOST_TRAINED else _evenly(method.found)
    generator = torch.Generator().manual_seed(seed)
    networks = []
    for architecture in chosen:
        macs = sets.count_macs(architecture)
        random = random_architecture_of_equal_budget(sets, macs, _TOLERANCE, generator, {architecture})
        networks.append(
            {
                "macs": macs,
                "accuracy": trained_anew(sets, architecture, splits, training.epochs // 2, training.batch_size, seed),
                "random macs": sets.count_macs(random),
                "random accuracy": trained_anew(sets, random, splits, training.epochs // 2, training.batch_size, seed),
                "operations": sets.operation_names(architecture),
            }
        )
    gains = [network["accuracy"] - network["random accuracy"] for network in networks]
    return {
        "seed": seed,
        "costs fall": all(after <= before for before, after in pairwise(costs)),
        "costs of results": costs,
        "epochs": numbers,
        "networks": networks,
        "gain over random": over_seeds(gains) if len(gains) > 1 else gains,
    }


def _evenly(architectures: Sequence[Architecture]) -> list[Architecture]:
    last = len(architectures) - 1
    return [architectures[round(index * last / (_MOST_TRAINED - 1))] for index in range(_MOST_TRAINED)]
