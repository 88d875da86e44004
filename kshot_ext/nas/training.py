"""Trains supernet and simplex-net in turn.

Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.checks import check_at_least, check_between
from kshot_ext.nas.data import DataSplits, ImageSet
from kshot_ext.nas.data_parallel import DataParallel
from kshot_ext.nas.epoch_trainer import EpochTrainer, OnStep
from kshot_ext.nas.optimization import OptimizationSettings, Tally
from kshot_ext.nas.simplex_net import CodeStatistics, SimplexNet, code_statistics, imbalance
from kshot_ext.nas.space import operation_shares
from kshot_ext.nas.supernet import Supernet
from kshot_ext.optim import KShotSGD

_BALANCED_CODES = 64


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(OptimizationSettings):
    """How supernet and simplex-net are trained; see :class:`OptimizationSettings` for the supernet's part.

    ``learning_rate`` and ``weight_decay`` are those of the mixed weight under equal codes, whatever K is.

    Args:
        warmup_epochs: epochs before the first simplex step; until then all codes are equal.
        simplex_learning_rate: of the simplex-net's Adam.
        simplex_every: dictionary steps between two simplex steps.
        paths_per_simplex_step: paths whose losses one simplex step averages.
        held_out_share: share of the training images that only simplex steps see.
        balance: weight of the term that keeps every copy in use, see `imbalance`.

    Raises:
        ValueError: if a value is out of range.
    """

    epochs: int = 50
    warmup_epochs: int = 5
    simplex_learning_rate: float = 3e-3
    simplex_every: int = 8
    paths_per_simplex_step: int = 4
    held_out_share: float = 0.2
    balance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("warmup_epochs", self.warmup_epochs, 0)
        check_at_least("simplex_learning_rate", self.simplex_learning_rate, 0)
        check_at_least("simplex_every", self.simplex_every, 1)
        check_at_least("paths_per_simplex_step", self.paths_per_simplex_step, 1)
        check_between("held_out_share", self.held_out_share, 0.01, 1)
        check_at_least("balance", self.balance, 0)


@dataclass(frozen=True)
class EpochReport:
    """One epoch of supernet training.

    Args:
        epoch: its number, from 1.
        loss: mean cross-entropy of the dictionary steps.
        accuracy: share of training images that the paths sampled for them got right.
        simplex_loss: mean cross-entropy of the simplex steps; None if there were none.
        learning_rate: of the supernet at the epoch's start.
        codes: how the codes spread after the epoch.
        operation_shares: share of each operation's name among the sampled paths.
    """

    epoch: int
    loss: float
    accuracy: float
    simplex_loss: float | None
    learning_rate: float
    codes: CodeStatistics
    operation_shares: dict[str, float]


class SupernetTrainer(EpochTrainer):
    """Alternates dictionary steps and simplex steps, an epoch at a time.

    A dictionary step trains one uniformly drawn path under its code, which is held fixed. A simplex step
    trains only the simplex-net, on several paths. It uses training images held out from the dictionary steps:
    on images that the weights have fitted, codes would be rewarded for memorising; and the validation images
    stay unseen, so that they can choose between architectures.

    Args:
        supernet: trained in place.
        simplex_net: trained in place.
        splits: only ``train`` is used.
        settings: see :class:`TrainingSettings`.
        generator: source of every random choice.
        processes: those that share each batch; None for this one alone.

    Raises:
        ValueError: if supernet and simplex-net differ in K, or there are too few training images.
    """

    settings: TrainingSettings

    def __init__(
        self,
        supernet: Supernet,
        simplex_net: SimplexNet,
        splits: DataSplits,
        settings: TrainingSettings,
        generator: torch.Generator,
        processes: DataParallel | None = None,
    ) -> None:
        if supernet.num_shots != simplex_net.num_shots:
            raise ValueError(
                f"simplex_net: expected codes of {supernet.num_shots} entries, as the supernet keeps copies, "
                f"got {simplex_net.num_shots}"
            )
        self.processes = processes or DataParallel()
        self.processes.prepare(supernet)
        self.supernet = supernet
        self.simplex_net = simplex_net
        self.simplex_optimizer = torch.optim.Adam(simplex_net.parameters(), lr=settings.simplex_learning_rate)
        optimizer = KShotSGD(
            supernet.parameters(),
            # Under equal codes the mixed weight moves by sum_k code_k^2 = 1/K of this rate.
            lr=supernet.num_shots * settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay / supernet.num_shots,
            nesterov=True,
        )
        images, self.held_out = _hold_out(splits.train, settings.held_out_share)
        super().__init__(images, optimizer, splits, settings, generator)

    def train_epoch(self, on_step: OnStep | None = None) -> EpochReport:
        """Trains for one epoch.

        Args:
            on_step: called after each dictionary step; with several processes its loss is that of this one's part.

        Raises:
            RuntimeError: if training has finished.
        """
        self.processes.announce(self)
        tally, simplex_losses, paths = Tally(), [], []
        held_out = self._endless_held_out_batches()
        learning_rate = float(self.schedule.get_last_lr()[0]) / self.supernet.num_shots
        warm = self.epoch >= self.settings.warmup_epochs

        def step(images: Tensor, labels: Tensor) -> float:
            paths.append(self.supernet.space.sample(self.generator))
            loss = self._dictionary_step(paths[-1], images, labels, tally)
            if warm and len(paths) % self.settings.simplex_every == 0:
                simplex_losses.append(self._simplex_step(held_out))
            return loss

        self.supernet.train()
        self._steps(on_step, step)
        tally = self.processes.joined(tally)
        return EpochReport(
            epoch=self.epoch,
            loss=tally.loss,
            accuracy=tally.accuracy,
            simplex_loss=sum(simplex_losses) / len(simplex_losses) if simplex_losses else None,
            learning_rate=learning_rate,
            codes=code_statistics(self.simplex_net, self.supernet.space, self.generator),
            operation_shares=operation_shares(self.supernet.space, paths),
        )

    def _parts(self) -> dict[str, Any]:
        return {
            "supernet": self.supernet,
            "simplex_net": self.simplex_net,
            "simplex_optimizer": self.simplex_optimizer,
        }

    def _endless_held_out_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._random_batches(self.held_out)

    def _loss(self, path: Architecture, code: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.supernet(images, path, code)
        return F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing), logits

    def _dictionary_step(self, path: Architecture, images: Tensor, labels: Tensor, tally: Tally) -> float:
        images, labels, share = self.processes.part(images, labels)
        loss, logits = self._loss(path, self.simplex_net.code(path), images, labels)
        (share * loss).backward()
        self.processes.sum_gradients(self.supernet.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return tally.add(loss, logits, labels)

    def _simplex_step(self, held_out: Iterator[tuple[Tensor, Tensor]]) -> float:
        num_paths = self.settings.paths_per_simplex_step
        tally = Tally()
        with _frozen(self.supernet):
            for _ in range(num_paths):
                path = self.supernet.space.sample(self.generator)
                images, labels, share = self.processes.part(*next(held_out))
                loss, logits = self._loss(path, self.simplex_net([path])[0], images, labels)
                (share * loss / num_paths).backward()
                tally.add(loss, logits, labels)
        self.processes.sum_gradients(self.simplex_net.parameters())
        codes = self.simplex_net([self.supernet.space.sample(self.generator) for _ in range(_BALANCED_CODES)])
        (self.settings.balance * imbalance(codes)).backward()
        self.simplex_optimizer.step()
        self.simplex_optimizer.zero_grad()
        return self.processes.joined(tally).loss


def _hold_out(images: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    """Splits every (1 / share)-th image off: the same ones whenever a training is set up again."""
    marks = (torch.arange(len(images) + 1) * share).floor()
    is_held_out = marks.diff() > 0
    return images.subset((~is_held_out).nonzero()[:, 0]), images.subset(is_held_out.nonzero()[:, 0])


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradient is computed for the module's parameters; gradients still flow through it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
