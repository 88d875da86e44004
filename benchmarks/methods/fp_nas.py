"""What fewer samples cost, and what the hand-over from factors to a joint distribution gives.

python -m benchmarks.methods observable fp-nas --data cifar10_train.zip --truth nas_bench_macro_cifar10_half.json

A bandit of known likelihoods, in which two variables of a layer matter together only; and supernets of NAS-Bench-Macro.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.task import Task, cifar_task, digits_task, over_seeds
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.fp_nas import FPNASSettings, path_shares
from kshot_ext.nas.methods.parts.choice_distribution import ChoiceDistribution
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.settings import TrainingSettings

SPACE = "nas-bench-macro"
_SAMPLES = 8
_COUNTED = 4.0
_BANDITS = {  # steps, most samples, whether they follow the entropy, and the share of the steps after which it is joint
    "8 samples, joint": (600, _SAMPLES, False, 0.0),
    "5 samples, joint": (540, 5, False, 0.0),
    "adaptive, joint": (1000, _SAMPLES, True, 0.0),
    "adaptive, factorised": (1000, _SAMPLES, True, 1.0),
    "adaptive, factorised then joint": (1000, _SAMPLES, True, 0.5),
}
"""Samples are what a search pays for, so those that take fewer of them get more steps."""
_BANDIT_SEEDS = range(10)  # which take seconds


def run(
    seeds: Sequence[int], quick: bool = False, data: Path | None = None, truth: Path | None = None
) -> dict[str, Any]:
    """Samples drawn and values reached: of bandits the expected loss, of supernets the loss of what is found.

    Args:
        seeds: decide what is drawn in supernets; bandits have ten.
        quick: few steps, on digits.
        data, truth: CIFAR-10's training images and the table of NAS-Bench-Macro; None for digits, without a truth.
    """
    bandits: dict[str, Any] = {}
    for arm, (steps, *how) in _BANDITS.items():
        own_seeds, steps = (seeds, 20) if quick else (_BANDIT_SEEDS, steps)
        found = [bandit(seed, steps, *how) for seed in own_seeds]
        bandits[arm] = {name: over_seeds([values[name] for values in found]) for name in found[0]}
    full = data is not None and truth is not None and not quick
    task = cifar_task(data, truth, SPACE, side=16, images=6_000, count=20) if full else digits_task(SPACE)
    arms = {
        "8 samples (PARSEC)": FPNASSettings(samples=_SAMPLES, factorised=0.0, learning_rate=0.1),
        "adaptive (FP-NAS)": FPNASSettings(samples_per_nat=0.9, most_samples=_SAMPLES, learning_rate=0.1),
    }
    training = TrainingSettings(
        epochs=6 if full else 2, batch_size=64, learning_rate=0.05, label_smoothing=0.0, held_out_share=0.2
    )
    return {"bandits": bandits, "supernets": {arm: _supernets(task, own, training, seeds) for arm, own in arms.items()}}


def bandit(seed: int, steps: int, samples: int, adaptive: bool, joined_at: float) -> dict[str, float]:
    """A bandit whose layers cost little only if operation and width fit: best are the second ones.

    By themselves, of a uniform partner, the first operation and the second width are the best bets, and do not fit.
    So a product of distributions, each moved by itself, ends where it should not.
    """
    space = create_space(SPACE, image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1.0))
    distribution = ChoiceDistribution(space)
    optimizer = torch.optim.Adam(distribution.parameters(), 0.05)
    generator = torch.Generator().manual_seed(seed)
    at_start, drawn, change = distribution.entropy().item(), 0, 0.0
    for step in range(steps):
        if step == int(joined_at * steps):
            before = torch.cat(distribution.log_probabilities()).exp()
            distribution.join()
            change = float((torch.cat(distribution.log_probabilities()).exp() - before).detach().abs().max())
        count = samples
        if adaptive:
            count = max(2, round(samples * distribution.entropy().item() / at_start))
        paths = distribution.sample(count, generator)
        drawn += count
        shares = torch.tensor(path_shares([bandit_loss(path) for path in paths], _COUNTED))
        optimizer.zero_grad()
        (-(shares * distribution.log_probability(paths)).sum()).backward()
        optimizer.step()
    expected = sum(map(bandit_loss, distribution.sample(500, generator))) / 500
    return {
        "samples": float(drawn),
        "expected loss": expected,
        "loss of the most probable": bandit_loss(distribution.most_probable()),
        "change at the hand-over": change,
    }


def bandit_loss(path: Architecture) -> float:
    """The sum over layers of what a pair of operation and width costs; the best there is, is 0."""
    costs = {(1, 1): 0.0, (0, 0): 0.05, (2, 0): 0.3, (2, 1): 0.3, (0, 1): 0.3, (1, 0): 0.8}
    return sum(costs[pair] for pair in zip(path.operations, path.widths))


def _supernets(task: Task, own: FPNASSettings, training: TrainingSettings, seeds: Sequence[int]) -> dict[str, Any]:
    found: dict[str, list[float]] = {"samples": [], "loss": [], "true accuracy": [], "entropy": []}
    for seed in seeds:
        samples = []
        loop = begin_training(own, task.space, task.splits, training, seed=seed)
        while not loop.finished:
            numbers = loop.train_epoch().numbers
            samples.append(numbers["samples"] * loop.steps_per_epoch)
        found["samples"].append(sum(samples))
        best = loop.method.found
        found["loss"].append(replace(task, architectures=[best]).scores(loop)[0].loss)
        found["entropy"].append(numbers["entropy"])
        if best in task.truth:
            found["true accuracy"].append(task.truth[best])
    return {name: over_seeds(values) for name, values in found.items() if values}
