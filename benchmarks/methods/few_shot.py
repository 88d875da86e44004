"""Few-shot NAS beside K-shot NAS, at equal steps and parameters, and beside one supernet: how well each ranks.

python -m benchmarks.methods observable few-shot --data cifar10_train.zip --truth nas_bench_macro_cifar10_half.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods.task import Task, cifar_task, digits_task, over_seeds
from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.ranking.rank_correlation import rank_correlation
from kshot_ext.nas.training.settings import TrainingSettings

SPACE = "nas-bench-macro"
_SHOTS = 3  # as many as a layer has operations
_CODES = CodeSettings(start="count", perturbation=0.0, free_share_at_start=0.0, free_share=0.6, growth=0.5)
_ARMS = {"one supernet": ("spos", 1), "k-shot": ("kshot", _SHOTS), "few-shot": ("few-shot", _SHOTS)}
_NUMBERS = {"tau": "kendall_tau", "better half": "kendall_tau_better_half", "best of ten": "best_truth_of_ten"}


def run(
    seeds: Sequence[int], quick: bool = False, data: Path | None = None, truth: Path | None = None
) -> dict[str, Any]:
    """Rank correlations by held-out loss with the table, of each arm.

    Args:
        seeds: decide weights, paths and batches.
        quick: a training of a step or two.
        data, truth: CIFAR-10's training images and the table; None for digits, without a truth.
    """
    full = data is not None and truth is not None and not quick
    task = cifar_task(data, truth, SPACE, side=16, images=8_000, count=150) if full else digits_task(SPACE)
    training = TrainingSettings(
        epochs=6 if full else 2,
        batch_size=64,
        learning_rate=0.1,
        rise_steps=100 if full else 0,
        label_smoothing=0.0,
        held_out_share=0.05,
    )
    arms = {arm: _arm(task, training, seeds, *which) for arm, which in _ARMS.items()}
    return {"space": SPACE, "networks": len(task.architectures), "arms": arms}


def _arm(task: Task, training: TrainingSettings, seeds: Sequence[int], method: str, shots: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {name: [] for name in _NUMBERS}
    for seed in seeds:
        loop = task.train(METHODS[method].Settings(), training, seed, shots=shots, codes=_CODES)
        merits = [scores.merit("loss") for scores in task.scores(loop)]
        ranking = rank_correlation([task.truth[path] for path in task.architectures], merits)
        for name, number in _NUMBERS.items():
            found[name].append(getattr(ranking, number))
    steps = training.epochs * loop.steps_per_epoch
    parameters = sum(parameter.numel() for parameter in loop.method.supernet.parameters())
    return {"steps": steps, "parameters": parameters, **{name: over_seeds(values) for name, values in found.items()}}
