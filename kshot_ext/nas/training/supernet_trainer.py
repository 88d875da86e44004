"""Trains supernet and simplex-net in turn.

Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kshot_ext.nas.datasets.splits import DataSplits, ImageSet
from kshot_ext.nas.networks.code_settings import CodeForm
from kshot_ext.nas.networks.cost_rank import CostRank
from kshot_ext.nas.networks.simplex_net import CodeStatistics, SimplexNet, code_statistics
from kshot_ext.nas.networks.supernet import Supernet, path_loss
from kshot_ext.nas.randomness import draw_seed
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import operation_shares
from kshot_ext.nas.training.choice_similarity import choice_similarities
from kshot_ext.nas.training.code_prospects import why_codes_stay_alike
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.divergence import check_path_losses
from kshot_ext.nas.training.epoch_trainer import EpochTrainer, OnStep
from kshot_ext.nas.training.optimization import Tally, decay_groups
from kshot_ext.nas.training.path_sampling import PATH_SAMPLINGS
from kshot_ext.nas.training.path_steps import PathSteps
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.simplex_training import SimplexTraining
from kshot_ext.nas.training.weight_average import WeightAverage
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotSGD

_BATCHES_TO_SETTLE = 8


@dataclass(frozen=True)
class EpochReport:
    """One epoch of supernet training.

    Args:
        epoch: its number, from 1.
        loss: mean cross-entropy of the dictionary steps.
        accuracy: share of training images that the paths sampled for them got right.
        simplex_loss: mean cross-entropy of the simplex steps; None if there were none, or they did without.
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

    A dictionary step trains one or several paths, see `path_sampling`, under their codes, which are held fixed. A
    simplex step trains only the simplex-net, on several paths. It uses training images held out from the dictionary
    steps: on images that the weights have fitted, codes would be rewarded for memorising; and the validation images
    stay unseen, so that they can choose between architectures.

    First all codes are equal (warm-up), then they are those that the simplex-net starts with (``fixed_epochs``), then
    it is trained; see :class:`kshot_ext.nas.networks.code_settings.CodeSettings`. Settings under which K > 1 copies
    stay one are warned of.

    Args:
        supernet: trained in place; if an average is kept, it holds that at the end.
        simplex_net: as the supernet.
        splits: only ``train`` is used.
        settings: see :class:`TrainingSettings`.
        generator: source of every random choice. Dictionary steps and simplex steps have a stream each, so that a seed
            gives the same paths and batches whatever K and codes are: runs can be compared in pairs.
        processes: those that share each batch; None for this one alone.

    Raises:
        ValueError: if supernet and simplex-net differ in K, there are too few training images, or the device lacks the
            precision.
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
        num_shots = supernet.num_shots
        if num_shots != simplex_net.num_shots:
            raise ValueError(
                f"simplex_net: expected codes of {num_shots} entries, as the supernet keeps copies, "
                f"got {simplex_net.num_shots}"
            )
        self.processes = processes or DataParallel()
        alike = why_codes_stay_alike(num_shots, settings, simplex_net.settings)
        if alike is not None and self.processes.leads:
            warnings.warn(f"this training will end with a one-shot supernet: {alike}", stacklevel=2)
        self.processes.prepare(supernet)
        self.supernet = supernet
        self.simplex_net = simplex_net
        optimizer = KShotSGD(
            decay_groups(supernet, settings.weight_decay / num_shots, decay_norms=settings.decay_norms),
            # Under equal codes the mixed weight moves by sum_k code_k^2 = 1/K of this rate.
            lr=num_shots * settings.learning_rate,
            momentum=settings.momentum,
            nesterov=True,
        )
        # And the gradient of K copies is shorter by the square root of that.
        self._clip_norm = settings.clip_norm / math.sqrt(num_shots)
        images, self.held_out = _hold_out(splits.train, settings.held_out_share)
        super().__init__(images, optimizer, splits, settings, generator)
        self._warm_up_steps = settings.warm_up * self.steps_per_epoch
        self._total_steps = settings.epochs * self.steps_per_epoch
        self._first_trained = self._warm_up_steps + simplex_net.settings.fixed_epochs * self.steps_per_epoch
        num_simplex_steps = sum(map(self._has_simplex_step, range(self._total_steps)))
        least = max(2, self.processes.size)  # batch norm needs two, and each process one
        if num_simplex_steps and len(self.held_out) < least:
            raise ValueError(
                f"held_out_share: expected at least {least} of the {len(splits.train)} training images for simplex "
                f"steps, got {len(self.held_out)} by a share of {settings.held_out_share:g}"
            )
        self._own_seed = draw_seed(generator)
        self.simplex_training = SimplexTraining(
            supernet, simplex_net, settings, num_simplex_steps, torch.Generator().manual_seed(self._own_seed)
        )
        self._path_steps = PathSteps(
            settings.equal_path_steps, settings.cost_aware_rates, lambda: CostRank(supernet.space, self._own_stream())
        )
        self.average: WeightAverage | None = None
        if settings.average_decay > 0:
            modules = {"supernet": supernet, "simplex_net": simplex_net}
            trained = {f"{role}.{name}": p for role, m in modules.items() for name, p in m.named_parameters()}
            self.average = WeightAverage(trained, settings.average_decay)

    def train_epoch(self, on_step: OnStep | None = None) -> EpochReport:
        """Trains for one epoch.

        Args:
            on_step: called after each dictionary step.

        Raises:
            RuntimeError: if training has finished.
            DivergedError: if a loss, or a weight at the epoch's end, is not finite; in all processes at the same step.
        """
        self.processes.announce(self)
        tally, simplex_losses = Tally(), []
        paths: list[Architecture] = []
        held_out = self._endless_held_out_batches()
        learning_rate = float(self.schedule.get_last_lr()[0]) / self.supernet.num_shots
        steps = itertools.count(self.epoch * self.steps_per_epoch)

        def step(images: Tensor, labels: Tensor) -> float:
            number = next(steps)
            if number == self._warm_up_steps:
                self._settle_codes()
            self.simplex_net.set_form(self._code_form(number))
            drawn = PATH_SAMPLINGS[self.settings.path_sampling](self.supernet.space, self.generator)
            paths.extend(drawn)
            loss = self._dictionary_step(drawn, images, labels, tally)
            if self._has_simplex_step(number) and (simplex_loss := self._simplex_step(held_out)) is not None:
                simplex_losses.append(simplex_loss)
            if self.average is not None:
                self.average.count_step()
            return loss

        self.supernet.train()
        self._steps(on_step, step)
        tally = self.processes.joined(tally)
        self.simplex_net.set_form(self._code_form(next(steps)))
        if self.finished and self.average is not None:
            self.average.swap()
        return EpochReport(
            epoch=self.epoch,
            loss=tally.loss,
            accuracy=tally.accuracy,
            simplex_loss=sum(simplex_losses) / len(simplex_losses) if simplex_losses else None,
            learning_rate=learning_rate,
            codes=code_statistics(self.simplex_net, self.supernet.space, self.generator),
            operation_shares=operation_shares(self.supernet.space, paths),
        )

    def averaged(self) -> AbstractContextManager[None]:
        """The context in which networks are to be evaluated before training has finished.

        Inside, supernet and simplex-net hold their averages, if these are kept; after the last epoch they hold them
        anyway.
        """
        return nullcontext() if self.average is None or self.finished else self.average.in_place()

    def _parts(self) -> dict[str, Any]:
        parts = {
            "supernet": self.supernet,
            "simplex_net": self.simplex_net,
            "simplex_training": self.simplex_training,
        }
        return parts if self.average is None else {**parts, "average": self.average}

    def _endless_held_out_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._random_batches(self.held_out, self.simplex_training.generator)

    def _has_simplex_step(self, number: int) -> bool:
        """Whether a simplex step follows the dictionary step of this number, counted from 0 at the very start."""
        if self.supernet.num_shots == 1:  # there is one code only
            return False
        return number >= self._first_trained and (number + 1) % self.settings.simplex_every == 0

    def _code_form(self, number: int) -> CodeForm:
        """How codes are formed at a dictionary step."""
        progress = (number - self._warm_up_steps) / max(self._total_steps - self._warm_up_steps, 1)
        form = self.simplex_net.settings.form_at(max(progress, 0))
        return form if progress >= 0 else form._replace(free_share=0.0)

    def _settle_codes(self) -> None:
        """Lets the codes' start see what the warm-up has taught."""
        start = self.simplex_net.start
        if start is None or not start.settles:
            return
        generator = self._own_stream()
        images = itertools.islice(self._random_batches(self.images, generator), _BATCHES_TO_SETTLE)
        equal = torch.full((self.supernet.num_shots,), 1 / self.supernet.num_shots, device=self.splits.mean.device)
        similarities = choice_similarities(
            self.supernet, equal, images, generator, self.gradient_steps, self.processes, self.settings.label_smoothing
        )
        start.settle(similarities)

    def _own_stream(self) -> torch.Generator:
        """Random numbers for what only some trainings do, so that all others are drawn alike in all of them."""
        return torch.Generator().manual_seed(self._own_seed)

    def _dictionary_step(self, paths: list[Architecture], images: Tensor, labels: Tensor, tally: Tally) -> float:
        losses, codes = [], []
        images, labels, share = self.processes.part(images, labels)
        smoothing = self.settings.label_smoothing
        rate = self.settings.learning_rate_factor(self.schedule.last_epoch, self._total_steps)
        for path in paths:
            code = self.simplex_net.code(path)
            with self.gradient_steps.autocast():
                loss, logits = path_loss(self.supernet, path, code, images, labels, smoothing)
            self.gradient_steps.backward(share * self._path_steps.factor(path, code, rate) * loss)
            losses.append(share * tally.add(loss, logits, labels))
            codes.append(code)
        losses = self.processes.summed(losses)
        check_path_losses(losses, paths, codes)
        self.processes.sum_gradients(self.supernet.parameters())
        if self.average is not None:
            self.average.before_change(p for p in self.supernet.parameters() if gradient_in_slot(p) is not None)
        self.gradient_steps.step(self.optimizer, clip_norm=self._clip_norm)
        return sum(losses) / len(losses)

    def _simplex_step(self, held_out: Iterator[tuple[Tensor, Tensor]]) -> float | None:
        if self.average is not None:
            self.average.before_change(self.simplex_net.parameters())
        return self.simplex_training.step(held_out, self.gradient_steps, self.processes)


def _hold_out(images: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    """Splits every (1 / share)-th image off: the same ones whenever a training is set up again."""
    marks = (torch.arange(len(images) + 1) * share).floor()
    is_held_out = marks.diff() > 0
    return images.subset((~is_held_out).nonzero()[:, 0]), images.subset(is_held_out.nonzero()[:, 0])
