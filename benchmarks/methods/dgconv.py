"""What gates learn: the groups of a teacher, and those of a network's layers; and what export of them saves.

python -m benchmarks.methods observable dgconv
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.dgconv import DynamicGroupSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nn import DynamicGroupConv2d

CHANNELS = 16
GATES = CHANNELS.bit_length() - 1
PENALTIES = (0.0, 0.4, 1.2, 2.0)
FIXED = (1, 4, 16)
_TIMED_CHANNELS, _TIMED_SIDE, _TIMED_BATCH = 128, 8, 64
# Of a pupil, whose loss is relative to the size of its target.
_PENALTY, _GATE_RATE, _START = 0.2, 0.05, 0.1


def run(seeds: Sequence[int], quick: bool = False) -> dict[str, Any]:
    """Groups learnt, losses, accuracies, the error of exports and milliseconds.

    Args:
        seeds: decide teachers, weights and batches.
        quick: a few steps of everything.
    """
    steps = 10 if quick else 900
    teachers = {
        str(groups): {"learnt groups": [], "relative loss": []} for groups in (2**power for power in range(GATES + 1))
    }
    for groups, seed in itertools.product(teachers, seeds):
        learnt, loss = recovered(int(groups), seed, steps)
        teachers[groups]["learnt groups"].append(learnt)
        teachers[groups]["relative loss"].append(loss)
    arms = {f"penalty {penalty:g}": trained(seeds, quick, penalty, None) for penalty in PENALTIES}
    arms |= {f"{groups} groups throughout": trained(seeds, quick, 0.0, groups) for groups in FIXED}
    return {
        "teachers": teachers,
        "largest relative error of an export": largest_export_error(),
        "milliseconds": milliseconds(3 if quick else 50),
        "networks": arms,
    }


def recovered(groups: int, seed: int, steps: int) -> tuple[int, float]:
    """Groups that a layer ends with that learns from a convolution in groups, and its squared error, relative."""
    torch.manual_seed(seed)
    teacher = nn.Conv2d(CHANNELS, CHANNELS, 1, groups=groups, bias=False).requires_grad_(False)
    layer = DynamicGroupConv2d(CHANNELS, CHANNELS, 1, bias=False, num_shots=1)
    layer.group_gates.data.fill_(_START)
    weights, gates = torch.optim.Adam([layer.weight], lr=0.02), torch.optim.SGD([layer.group_gates], lr=_GATE_RATE)
    opened, loss = torch.zeros(GATES), torch.tensor(0.0)
    for step in range(steps):
        images = torch.randn(32, CHANNELS, 1, 1)
        target = teacher(images)
        loss = F.mse_loss(layer(images), target) / target.var()
        weights.zero_grad()
        gates.zero_grad()
        (loss - _PENALTY * layer.log2_groups() / GATES).backward()
        weights.step()
        if steps // 3 <= step < 2 * steps // 3:
            nn.utils.clip_grad_norm_(layer.group_gates, 1.0)
            gates.step()
            opened += layer.hard_gates().detach()
        if step == 2 * steps // 3:
            layer.group_gates.data.copy_(opened / (steps // 3) - 0.5)
    return layer.groups, float(loss.detach())


def trained(seeds: Sequence[int], quick: bool, penalty: float, groups: int | None) -> dict[str, Any]:
    """Networks on digits at equal steps: with gates that are trained, or that stand at a number of groups."""
    found: dict[str, list[Any]] = {"groups of layers": [], "share of dense MACs": [], "accuracy": []}
    generator = torch.Generator().manual_seed(0)
    splits = load_splits(open_source(None), generator=generator, max_images=200 if quick else None)
    space = create_space("groupable", image_shape=splits.image_shape, num_classes=splits.num_classes, channels=CHANNELS)
    training = TrainingSettings(epochs=1 if quick else 8, batch_size=64, learning_rate=0.05, held_out_share=0.05)
    for seed in seeds:
        settings = DynamicGroupSettings(penalty=penalty)
        settings = dataclasses.replace(settings, gate_learning_rate=0.0) if groups else settings
        loop = begin_training(settings, space, splits, training, seed=seed)
        method = loop.method
        if groups:
            closed = torch.arange(GATES) < groups.bit_length() - 1
            for layer in method.layers:
                layer.group_gates.data.copy_(torch.where(closed, -1.0, 1.0))
        while not loop.finished:
            loop.train_epoch()
        parts = splits.train, splits.test, splits.mean, splits.std
        found["groups of layers"].append([layer.groups for layer in method.layers])
        found["share of dense MACs"].append(space.count_macs(method.learnt) / space.count_macs(space.largest()))
        found["accuracy"].append(InheritedEvaluation(method.networks, *parts, "batch")(method.learnt).accuracy)
    return found


@torch.no_grad()
def largest_export_error() -> float:
    """Over all gates of a layer: exported against masked, relative to the largest output."""
    layer, worst = DynamicGroupConv2d(CHANNELS, CHANNELS, 3, padding=1, num_shots=1), 0.0
    images = torch.randn(4, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    for gates in itertools.product((-1.0, 1.0), repeat=GATES):
        layer.group_gates.copy_(torch.tensor(gates))
        masked = layer(images)
        worst = max(worst, float((layer.export()(images) - masked).abs().max() / masked.abs().max()))
    return worst


@torch.no_grad()
def milliseconds(rounds: int) -> dict[str, float]:
    """The masked layer and what it exports, half of its gates closed, in turn; forward, one thread as it is called."""
    images = torch.randn(_TIMED_BATCH, _TIMED_CHANNELS, _TIMED_SIDE, _TIMED_SIDE)
    images = images.contiguous(memory_format=torch.channels_last)
    layer = DynamicGroupConv2d(_TIMED_CHANNELS, _TIMED_CHANNELS, 3, padding=1, bias=False, num_shots=1)
    half = torch.arange(layer.num_gates) < (layer.num_gates + 1) // 2
    layer.group_gates.copy_(torch.where(half.flip(0), -1.0, 1.0))
    forms: dict[str, Callable[[Tensor], Tensor]] = {"masked": layer, "exported, interleaved": layer.export()}
    side_by_side = DynamicGroupConv2d(_TIMED_CHANNELS, _TIMED_CHANNELS, 3, padding=1, bias=False, num_shots=1)
    side_by_side.group_gates.copy_(torch.where(half, -1.0, 1.0))
    forms["exported, side by side"] = side_by_side.export()
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds + 2):
        for name, form in forms.items():
            start = time.perf_counter()
            form(images)
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[2:]) for name, values in taken.items()}
