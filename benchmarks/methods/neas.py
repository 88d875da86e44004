"""Ensembles with a shared trunk, beside their own networks and beside one path of equal cost, at equal steps.

python -m benchmarks.methods observable neas --data cifar10_train.zip --truth nas_bench_macro_cifar10_half.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.methods.task import Task, add_numbers, cifar_task, digits_task, over_seeds
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.methods.neas import EnsembleSettings, disagreement
from kshot_ext.nas.networks.calibration import batch_statistics
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.networks.evaluation_mode import evaluation_mode
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.settings import TrainingSettings

SPACE = "nas-bench-macro"
EVALUATIONS = 40
_COSTS = (0.5, 0.6)  # multiply-accumulates of what is compared, in shares of the largest single path's
_ARMS = {
    "by accuracy": EnsembleSettings(diversity=0.0),
    "by accuracy and diversity": EnsembleSettings(),
}


def run(
    seeds: Sequence[int], quick: bool = False, data: Path | None = None, truth: Path | None = None
) -> dict[str, Any]:
    """Accuracy of the best ensemble of random ones, of its networks, and of the best path of random ones, equal in
    steps, evaluations and cost. One half of the held-out images chooses, the other one tells the accuracy.

    Args:
        seeds: decide weights, paths, batches and what is evaluated.
        quick: a training of a step or two.
        data, truth: CIFAR-10's training images and the table; None for digits.
    """
    full = data is not None and truth is not None and not quick
    task = cifar_task(data, truth, SPACE, side=16, images=16_000, count=1) if full else digits_task(SPACE, count=1)
    training = TrainingSettings(
        epochs=3 if full else 2, batch_size=64, learning_rate=0.1, rise_steps=50 if full else 0, held_out_share=0.1
    )
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        for arm, settings in {"one path": METHODS["spos"].Settings(), **_ARMS}.items():
            loop = task.train(settings, training, seed)
            add_numbers(found.setdefault(arm, {}), _measure(task, loop, seed, EVALUATIONS if full else 3))
    steps = {"steps": training.epochs * loop.steps_per_epoch}
    arms = {arm: steps | {name: over_seeds(v) for name, v in numbers.items()} for arm, numbers in found.items()}
    return {
        "space": SPACE,
        "evaluations": EVALUATIONS,
        "shares of the largest path's cost": _COSTS,
        "arms": arms,
    }


def _measure(task: Task, loop: TrainingLoop, seed: int, count: int) -> dict[str, float]:
    choosing, telling = _halves(task.splits.validation)
    method = loop.method
    space = getattr(method, "ensembles", task.space)
    evaluate = {
        part: InheritedEvaluation(
            method.networks, task.splits.train, images, task.splits.mean, task.splits.std, "batch"
        )
        for part, images in (("choosing", choosing), ("telling", telling))
    }
    candidates = _of_equal_cost(task, space, count, torch.Generator().manual_seed(seed))
    results = [Evaluated(one, evaluate["choosing"](one), space.count_macs(one), 0) for one in candidates]
    best = max(results, key=lambda result: result.merit)
    numbers = {
        "accuracy": (told := evaluate["telling"](best.architecture)).accuracy,
        "loss": told.loss,
        "mean accuracy of all": sum(result.scores.accuracy for result in results) / len(results),
        "share of the largest path's cost": best.macs / task.space.count_macs(task.space.largest()),
    }
    return numbers if space is task.space else numbers | _of_members(task, loop, best.architecture, telling)


def _halves(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return tuple(images.subset(half) for half in order.chunk(2))


def _of_equal_cost(task: Task, space: SearchSpace, count: int, generator: torch.Generator) -> list[Architecture]:
    low, high = (share * task.space.count_macs(task.space.largest()) for share in _COSTS)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        drawn = space.sample(generator)
        if low <= space.count_macs(drawn) <= high:
            found[drawn] = None
    return list(found)


@torch.no_grad()
def _of_members(task: Task, loop: TrainingLoop, ensemble: Architecture, images: ImageSet) -> dict[str, float]:
    """Accuracies of an ensemble's networks by themselves, how far they disagree, and how they share."""
    method, splits = loop.method, task.splits
    [(batch, labels)] = batches(images, len(images), mean=splits.mean, std=splits.std)
    with method.networks.network(ensemble) as network, evaluation_mode(network), batch_statistics(network):
        scores = network.members(batch)
    accuracies = [(f.argmax(dim=1) == labels).float().mean().item() for f in scores]
    losses = [F.cross_entropy(f, labels).item() for f in scores]
    members = method.ensembles.members(ensemble)
    return {
        "best network's accuracy": max(accuracies),
        "worst network's accuracy": min(accuracies),
        "best network's loss": min(losses),
        "worst network's loss": max(losses),
        "disagreement": disagreement(scores).item(),
        "layers shared": float(method.ensembles.trunk(ensemble)),
        "cost of the networks one by one": sum(map(task.space.count_macs, members))
        / task.space.count_macs(task.space.largest()),
        "operations kept": float(sum(map(len, method.ensembles.kept))),
    }
