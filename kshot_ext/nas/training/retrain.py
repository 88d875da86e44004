"""Trains one network from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.networks.evaluation import evaluate_network
from kshot_ext.nas.training.divergence import check_loss
from kshot_ext.nas.training.epoch_trainer import EpochTrainer, OnStep
from kshot_ext.nas.training.optimization import OptimizationSettings, Tally
from kshot_ext.optim import decay_groups


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(OptimizationSettings):
    """How a found network is trained from scratch.

    Args:
        seeds: how many times the winner is trained, each time by random numbers of its own, at least 1; the weights of
            the first time are kept. Its rivals are trained once each.
    """

    epochs: int = 20
    weight_decay: float = 5e-4
    seeds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("seeds", self.seeds, 1)


@dataclass(frozen=True)
class RetrainReport:
    """One epoch of a network's training.

    Args:
        epoch: its number, from 1.
        loss: mean cross-entropy.
        accuracy: share of training images it got right while training on them.
        learning_rate: at the epoch's start.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float


class NetworkTrainer(EpochTrainer):
    """Trains a network on all images that are not test images, an epoch at a time.

    The validation images have done their work when the architecture is chosen, so they are trained on too.

    Args:
        network: from images to scores ``[N, num_classes]``; trained in place.
        splits: where the images come from.
        settings: see :class:`RetrainSettings`.
        generator: source of every random choice.

    Raises:
        ValueError: if there are fewer images than one batch.
    """

    def __init__(
        self, network: nn.Module, splits: DataSplits, settings: RetrainSettings, generator: torch.Generator
    ) -> None:
        self.network = network
        optimizer = torch.optim.SGD(
            decay_groups(network, settings.weight_decay, decay_norms=settings.decay_norms),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=True,
        )
        super().__init__(splits.train.joined(splits.validation), optimizer, splits, settings, generator)

    def train_epoch(self, on_step: OnStep | None = None) -> RetrainReport:
        """Trains for one epoch.

        Args:
            on_step: called after each step.

        Raises:
            RuntimeError: if training has finished.
            DivergedError: if a loss, or a weight at the epoch's end, is not finite.
        """
        tally, task = Tally(), self.splits.task
        learning_rate = float(self.schedule.get_last_lr()[0])

        def step(images: Tensor, labels: Tensor) -> float:
            with self.gradient_steps.autocast():
                logits = self.network(images)
                loss = task.training_loss(logits, labels, self.settings.label_smoothing)
            value = tally.add(loss, logits, labels, task)
            check_loss(value)
            self.gradient_steps.backward(loss)
            self.gradient_steps.step(self.optimizer, clip_norm=self.settings.clip_norm)
            return value

        self.network.train()
        self._steps(on_step, step)
        return RetrainReport(self.epoch, tally.loss, tally.accuracy, learning_rate)

    def test_accuracy(self) -> float:
        """The task's metric on the test images: of classes, the share that the network gets right now."""
        test = batches(self.splits.test, self.settings.batch_size, mean=self.splits.mean, std=self.splits.std)
        return evaluate_network(self.network, test, self.splits.task).accuracy

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network}
