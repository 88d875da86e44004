"""What selection by perturbation picks where the largest logit picks poorly: beside skips, and beside noise.

python -m benchmarks.methods observable darts-pt --data cifar10_train.zip

Two spaces of cells, whose six edges offer a 3x3 convolution, and beside it a skip, or noise of the input's shape, as S2
and S4 of Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.methods.task import over_seeds, trained_anew
from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.darts_pt import DartsPTSettings
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.nas_bench_201 import NASBench201
from kshot_ext.nas.training.settings import TrainingSettings

_CONV = "nor_conv_3x3"


class SkipOrConv(NASBench201):
    """Edges that skip or convolve."""

    edge_operations: ClassVar[tuple[str, ...]] = ("skip_connect", _CONV)


class NoiseOrConv(NASBench201):
    """Edges that ignore their input or convolve it."""

    edge_operations: ClassVar[tuple[str, ...]] = ("noise", _CONV)

    def edge(self, operation: str, channels: int) -> nn.Module:
        return Noise() if operation == "noise" else super().edge(operation, channels)


class Noise(nn.Module):
    """Normal noise of the input's shape."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.randn_like(input)


_SPACES = {"skip or convolution": SkipOrConv, "noise or convolution": NoiseOrConv}


def run(seeds: Sequence[int], quick: bool = False, data: Path | None = None) -> dict[str, Any]:
    """Share of convolutions among the edges that each way picks, and the accuracy of what it picks, trained anew.

    The two look at the same supernet: a decision by perturbation tells which logit was the largest then.

    Args:
        seeds: decide weights, batches and the order of decisions.
        quick: a training of a few steps on digits.
        data: CIFAR-10's training images; None for digits.
    """
    generator = torch.Generator().manual_seed(0)
    full = data is not None and not quick
    splits = load_splits(
        open_source(data if full else None),
        generator=generator,
        max_images=8_000 if full else 300,
        image_size=16 if full else None,
    )
    training = TrainingSettings(
        epochs=20 if full else 2, batch_size=64, learning_rate=0.05, held_out_share=0.3, label_smoothing=0.0
    )
    results = {}
    for name, kind in _SPACES.items():
        space = kind(image_shape=splits.image_shape, num_classes=splits.num_classes, channels=8 if full else 2, cells=1)
        results[name] = _compare(space, splits, training, seeds)
    return {"edges": 6, "spaces": results}


def _compare(
    space: NASBench201, splits: DataSplits, training: TrainingSettings, seeds: Sequence[int]
) -> dict[str, Any]:
    convolutions: dict[str, list[float]] = {"perturbation": [], "magnitude": []}
    accuracies: dict[str, list[float]] = {"perturbation": [], "magnitude": []}
    agreement = []
    for seed in seeds:
        torch.manual_seed(seed)  # of the noise
        settings = DartsPTSettings(criterion="loss", logit_learning_rate=3e-3, score_batches=16)
        loop = begin_training(settings, space, splits, training, seed=seed)
        while not loop.finished:
            loop.train_epoch()
        decisions = sorted(loop.method.decisions)
        picked = {
            "perturbation": [decision.choice for decision in decisions],
            "magnitude": [decision.largest_logit for decision in decisions],
        }
        agreement.append(sum(map(int.__eq__, *picked.values())) / len(decisions))
        for way, choices in picked.items():
            convolutions[way].append(sum(choices) / len(choices))
            accuracies[way].append(
                trained_anew(space, Architecture(tuple(choices)), splits, training.epochs, training.batch_size, seed)
            )
    return {
        "share of convolutions": {way: over_seeds(values) for way, values in convolutions.items()},
        "accuracy trained anew": {way: over_seeds(values) for way, values in accuracies.items()},
        "agreement": over_seeds(agreement),
    }
