"""Contrastive search without labels: the estimator beside random search, and what the scores say of true accuracies.

python -m benchmarks.methods observable csnas --data cifar10_train.zip --truth nas_bench_201_cifar10_half.json
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.task import Task, add_numbers, cifar_task, digits_task, over_seeds
from kshot_ext.nas.methods.csnas import ContrastiveSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.ranking.rank_correlation import rank_correlation
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.random_search import RandomSearch
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.searchers.tpe import TreeStructuredParzenEstimator
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.settings import TrainingSettings

SPACE = "nas-bench-201"
POPULATION, GENERATIONS = 10, 12  # 120 architectures, as the authors look at
_TOLD_AFTER = 20, 40, 80  # of them, besides the end


def run(
    seeds: Sequence[int], quick: bool = False, data: Path | None = None, truth: Path | None = None
) -> dict[str, Any]:
    """Contrastive losses found by each search at equal evaluations, and rank correlations with true accuracies.

    No label is read: the images that are trained and scored on have none.

    Args:
        seeds: decide weights, paths, batches and searches.
        quick: a training of a step or two.
        data, truth: CIFAR-10's training images and the table; None for digits, where costs stand in for the truth.
    """
    full = data is not None and truth is not None and not quick
    task = cifar_task(data, truth, SPACE, side=16, images=10_000, count=100) if full else digits_task(SPACE)
    training = TrainingSettings(
        epochs=4 if full else 1, batch_size=64, learning_rate=0.1, rise_steps=50 if full else 0, held_out_share=0.05
    )
    found: dict[str, dict[str, list[float]]] = {"tpe": {}, "random": {}, "scores": {}}
    for seed in seeds:
        loop = task.train(ContrastiveSettings(), training, seed)
        evaluation = _evaluation(task, loop)
        for arm, searcher in {"tpe": TreeStructuredParzenEstimator(), "random": RandomSearch()}.items():
            add_numbers(found[arm], _search(task, evaluation, searcher, seed, GENERATIONS if full else 2))
        add_numbers(found["scores"], _ranking(task, evaluation))
    steps = {"steps": training.epochs * loop.steps_per_epoch}
    arms = {arm: steps | {name: over_seeds(v) for name, v in numbers.items()} for arm, numbers in found.items()}
    return {"space": SPACE, "evaluations": POPULATION * GENERATIONS, "arms": arms}


def _evaluation(task: Task, loop: TrainingLoop) -> InheritedEvaluation:
    splits = task.splits.unlabelled()
    images = splits.train, splits.validation, splits.mean, splits.std
    return InheritedEvaluation(loop.method.networks, *images, "batch", loop.method.score_network)


def _search(
    task: Task, evaluation: InheritedEvaluation, searcher: Searcher, seed: int, generations: int
) -> dict[str, float]:
    """The best loss on the way and at the end, the mean over the way, and the mean loss looked at.

    Each searcher goes on from the same random architectures.
    """
    archive = Archive(evaluation, task.space, SearchLimits(), torch.Generator().manual_seed(seed))
    archive.evaluate(archive.random(POPULATION))
    for _ in range(1, generations):
        archive.evaluate(searcher.ask(archive, POPULATION))
    losses = [result.scores.loss for result in archive.history]
    best_so_far = list(itertools.accumulate(losses, min))
    on_the_way = {f"best loss of {count}": best_so_far[count - 1] for count in _TOLD_AFTER if count < len(losses)}
    return on_the_way | {
        "best loss": best_so_far[-1],
        "mean best so far": statistics.fmean(best_so_far),
        "mean loss after the first generation": statistics.fmean(losses[POPULATION:]),
    }


def _ranking(task: Task, evaluation: InheritedEvaluation) -> dict[str, float]:
    scores = [evaluation(path) for path in task.architectures]
    correlation = rank_correlation(
        [task.truth[path] for path in task.architectures], [one.merit("loss") for one in scores]
    )
    return {
        "spearman_rho": correlation.spearman_rho,
        "kendall_tau": correlation.kendall_tau,
        "mean share recognised": statistics.fmean(one.accuracy for one in scores),
    }
