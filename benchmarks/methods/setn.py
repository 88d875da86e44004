"""What an evaluator's candidates are worth, beside uniformly drawn ones, with the same weights.

python -m benchmarks.methods observable setn --data cifar10_train.zip --truth nas_bench_macro_cifar10_half.json

The space is that of the table: cells of NAS-Bench-201, where the template may choose no connection at all, or chains of
NAS-Bench-Macro.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.task import Task, add_numbers, cifar_task, digits_task, over_seeds
from kshot_ext.nas.methods.setn import EvaluatorSearcher, TemplateSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.runs.truth import TruthError, read_truth
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.random_search import RandomSearch
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.settings import TrainingSettings

SPACES = ("nas-bench-201", "nas-bench-macro")
CANDIDATES = 20


def run(
    seeds: Sequence[int], quick: bool = False, data: Path | None = None, truth: Path | None = None
) -> dict[str, Any]:
    """Mean and best held-out accuracy of candidates, and their true accuracies where the table has them.

    Args:
        seeds: decide weights, paths, batches and candidates.
        quick: a training of a step or two.
        data, truth: CIFAR-10's training images and the table; None for digits, where costs stand in for the truth.
    """
    full = data is not None and truth is not None and not quick
    if full:
        task = cifar_task(data, truth, _space_of_table(truth), side=16, images=15_000, count=1)
    else:
        task = digits_task(SPACES[0], count=1)
    training = TrainingSettings(
        epochs=3 if full else 1, batch_size=64, learning_rate=0.1, rise_steps=50 if full else 0, held_out_share=0.25
    )
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        loop = task.train(TemplateSettings(), training, seed)
        for arm, numbers in _arms(task, loop, seed, CANDIDATES if full else 2).items():
            add_numbers(found.setdefault(arm, {}), numbers)
    steps = {"steps": training.epochs * loop.steps_per_epoch}
    arms = {arm: steps | {name: over_seeds(v) for name, v in numbers.items()} for arm, numbers in found.items()}
    return {"space": task.space.name, "candidates": CANDIDATES, "arms": arms}


def _space_of_table(truth: Path) -> str:
    """The space that the table's keys are of."""
    first, *others = SPACES
    for name in others:
        with suppress(TruthError):
            read_truth(truth, create_space(name, image_shape=(3, 16, 16), num_classes=10))
            return name
    return first  # which says what is wrong with a table of neither


def _arms(task: Task, loop: TrainingLoop, seed: int, count: int) -> dict[str, dict[str, float]]:
    """What candidates reach that are proposed in three ways, each as many."""
    splits, evaluator = task.splits, loop.method.evaluator
    evaluation = InheritedEvaluation(
        loop.method.networks, splits.train, splits.validation, splits.mean, splits.std, "batch"
    )
    searchers = {
        "uniform": RandomSearch(),
        "sampled": EvaluatorSearcher(evaluator, "sampled"),
        "likeliest": EvaluatorSearcher(evaluator, "likeliest"),
    }
    arms = {}
    for arm, searcher in searchers.items():
        archive = Archive(evaluation, task.space, SearchLimits(), torch.Generator().manual_seed(seed))
        results = archive.evaluate(searcher.ask(archive, count))
        accuracies = [result.scores.accuracy for result in results]
        known = [result for result in results if result.architecture in task.truth]
        truths = [task.truth[result.architecture] for result in known] or [0.0]
        arms[arm] = {
            "mean accuracy": statistics.fmean(accuracies),
            "best accuracy": max(accuracies),
            "mean loss": statistics.fmean(result.scores.loss for result in results),
            "best loss": min(result.scores.loss for result in results),
            "in the table": float(len(known)),
            "mean truth": statistics.fmean(truths),
            "best truth": max(truths),
        }
    entropies = evaluator.entropies()
    arms["evaluator"] = {"entropy": statistics.fmean(entropies), **evaluator.mean_probabilities()}
    return arms
