"""The loop in which every method trains: batches, schedule, precision, processes, averages, checkpoints.

A method says what a step does with a batch. All else is the same for all of them, and is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kshot_ext.nas.checks import check_given, check_numbers
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.datasets.streamed import Images
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace, operation_shares
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.epoch_trainer import EpochTrainer, OnStep, steps_in_epoch
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.optimization import Tally
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.weight_average import WeightAverage
from kshot_ext.ops.gradient_slot import gradient_in_slot


@dataclass(frozen=True)
class Step:
    """What a step of a method has done.

    Args:
        loss: of the whole batch, of all processes; the mean over paths, if there are several.
        tally: loss and accuracy of this process's part, of each path.
        paths: the architectures trained; none where a step trains all candidates at once.
    """

    loss: float
    tally: Tally
    paths: Sequence[Architecture] = ()


@dataclass(frozen=True)
class EpochReport:
    """One epoch of a method's training.

    Args:
        epoch: its number, from 1.
        loss: mean cross-entropy of the steps.
        accuracy: share of training images that the networks trained on them got right.
        learning_rate: at the epoch's start, as the settings have it.
        numbers: what else the method tells, by name.
        operation_shares: share of each operation's name among the paths; empty where there were none.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    numbers: Mapping[str, float]
    operation_shares: Mapping[str, float]


class Stepper:
    """What a step may use.

    Attributes:
        number: of the step, from 0 at the very start of the training.
        num_steps, steps_per_epoch: how many there are.
        num_images: of the whole batch, of all processes.
        num_held_out: images that :meth:`held_out` draws from.
        generator: source of what all methods draw alike, so that runs of one seed see the same paths and batches.
        own_generator: source of what only some methods draw; :meth:`held_out` draws from it, too.
        gradient_steps: the precision to compute in.
        processes: those that share each batch; `images` and `labels` of a step are this one's part.
    """

    def __init__(self, loop: TrainingLoop) -> None:
        self._loop = loop
        self.number = 0
        self.steps_per_epoch = loop.steps_per_epoch
        self.num_steps = loop.settings.epochs * loop.steps_per_epoch
        self.generator = loop.generator
        self.own_generator = loop.method.own_generator
        self.gradient_steps: GradientSteps = loop.gradient_steps
        self.processes: DataParallel = loop.processes
        self.num_images = 0
        self.num_held_out = len(loop.held_out)
        self.share = 1.0
        self._held_out: Iterator[tuple[Tensor, Tensor]] | None = None

    @property
    def progress(self) -> float:
        """Where the training stands: 0 at its start, 1 at its end."""
        return self.number / self.num_steps

    @property
    def learning_rate_factor(self) -> float:
        """What the learning rate is multiplied with at this step."""
        return self._loop.settings.learning_rate_factor(self.number, self.num_steps)

    @property
    def learning_rate_fall(self) -> float:
        """The part of it that falls, without the rise before it."""
        return self._loop.settings.learning_rate_fall(self.number, self.num_steps)

    def forward(self) -> AbstractContextManager[object]:
        """The context of a forward pass and its loss: the precision."""
        return self.gradient_steps.autocast()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a mean loss of this process's part of the batch, which counts by its size."""
        self.gradient_steps.backward(self.share * loss)

    def apply(self, optimizer: Optimizer, *, clip_norm: float = 0.0) -> None:
        """One step of an optimiser by the gradients of all processes, which are then forgotten.

        Args:
            optimizer: its parameters belong to the method's modules.
            clip_norm: largest Euclidean norm of the gradient, 0 for no limit.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.processes.sum_gradients(parameters)
        self.before_change(parameter for parameter in parameters if gradient_in_slot(parameter) is not None)
        self.gradient_steps.step(optimizer, clip_norm=clip_norm)

    def before_change(self, parameters: Iterable[nn.Parameter]) -> None:
        """To be called before parameters change in another way than by :meth:`apply`; averages read them."""
        if self._loop.average is not None:
            self._loop.average.before_change(parameters)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Whole batches without end of training images that no weight is trained on; each epoch begins anew."""
        if self._held_out is None:
            self._held_out = self._endless(self._loop.held_out)
        return self._held_out

    def held_out_images(self, count: int) -> tuple[Tensor, Tensor]:
        """So many held-out images, or some more, with their labels: whole batches, the same in all processes."""
        found = [next(self.held_out())]
        while sum(len(labels) for _, labels in found) < count:
            found.append(next(self.held_out()))
        images, labels = zip(*found)
        return torch.cat(images), torch.cat(labels)

    def views(self, images: Tensor, count: int) -> list[Tensor]:
        """Several views of each image, drawn anew, see :class:`kshot_ext.nas.datasets.augmentation.Views`.

        Args:
            images: this process's part of the batch.
            count: how many of each.

        Returns:
            As many tensors like ``images``.
        """
        views = self._loop.splits.views
        # Of the whole batch, so that all processes have drawn as many numbers.
        drawn = (views.draw(self.num_images, images.shape[1], self.own_generator) for _ in range(count))
        return [views(images, self.processes.part_of(numbers)) for numbers in drawn]

    def begin_epoch(self, epoch: int) -> None:
        """Called by the loop."""
        self.number, self._held_out = epoch * self.steps_per_epoch, None

    def training_batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the images that weights are trained on, in whole batches."""
        return self._loop.random_batches(self._loop.images, generator)

    def _endless(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._loop.random_batches(images, self.own_generator)


class Trained(Protocol):
    """What the loop must know of a method, see :class:`kshot_ext.nas.methods.method.Method`."""

    space: SearchSpace
    training: TrainingSettings
    generator: torch.Generator
    own_generator: torch.Generator
    own_seed: int
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    needs_held_out: bool
    needs_labels: bool

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step: ...

    def end_epoch(self, do: Stepper) -> Mapping[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingLoop(EpochTrainer):
    """Trains what a method says, an epoch at a time.

    A part of the training images is held out from the steps: on images that the weights have fitted, a choice between
    networks would be rewarded for memorising; and the validation images stay unseen, so that they can choose between
    architectures.

    Args:
        method: its modules are trained in place; if averages are kept, they hold these at the end.
        splits: only ``train`` is used.
        processes: those that share each batch; None for this one alone.

    Attributes:
        images, held_out: the two parts of the training images.
        average: of all weights; None if none is kept.

    Raises:
        ValueError: if there are too few training images, or the device lacks the precision.
    """

    settings: TrainingSettings

    def __init__(self, method: Trained, splits: DataSplits, processes: DataParallel | None = None) -> None:
        settings = method.training
        splits = splits if method.needs_labels else splits.unlabelled()
        self.method = method
        self.processes = processes or DataParallel()
        self.processes.check_batch_size(settings.batch_size)
        for module in method.modules.values():
            self.processes.prepare(module)
        images, self.held_out = hold_out(splits.train, settings.held_out_share)
        super().__init__(images, next(iter(method.optimizers.values())), splits, settings, method.generator)
        least = max(2, self.processes.size)  # batch norm needs two, and each process one
        if method.needs_held_out and len(self.held_out) < least:
            raise ValueError(
                f"held_out_share: expected at least {least} of the {len(splits.train)} training images to be held out, "
                f"got {len(self.held_out)} by a share of {settings.held_out_share:g}"
            )
        self.average: WeightAverage | None = None
        if settings.average_decay > 0:
            named = ((f"{role}.{n}", p) for role, m in method.modules.items() for n, p in m.named_parameters())
            self.average = WeightAverage(dict(named), settings.average_decay)
        self.do = Stepper(self)

    def train_epoch(self, on_step: OnStep | None = None) -> EpochReport:
        """Trains for one epoch.

        Args:
            on_step: called after each step.

        Raises:
            RuntimeError: if training has finished.
            DivergedError: if a loss, or a weight at the epoch's end, is not finite; in all processes at the same step.
        """
        self.processes.announce(self)
        do, tally = self.do, Tally()
        paths: list[Architecture] = []
        do.begin_epoch(self.epoch)
        learning_rate = self.settings.learning_rate * do.learning_rate_factor

        def step(images: Tensor, labels: Tensor) -> float:
            do.num_images = len(images)
            images, labels, do.share = self.processes.part(images, labels)
            done = self.method.step(images, labels, do)
            check_given("step", done, Step)
            tally.join(done.tally)
            paths.extend(done.paths)
            if self.average is not None:
                self.average.count_step()
            do.number += 1
            return done.loss

        for module in self.method.modules.values():
            module.train()
        self._steps(on_step, step)
        if self.finished and self.average is not None:
            self.average.swap()
        numbers = self.method.end_epoch(do)
        check_numbers("end_epoch", numbers)
        tally = self.processes.joined(tally)
        shares = operation_shares(self.method.space, paths) if paths else {}
        return EpochReport(self.epoch, tally.loss, tally.accuracy, learning_rate, numbers, shares)

    def state_dict(self) -> dict[str, Any]:
        """As of any training by epochs, and the random numbers that only this method draws."""
        own = {"own_generator": self.method.own_generator.get_state(), "own_seed": self.method.own_seed}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken, of a loop made with the same arguments."""
        super().load_state_dict(state)
        self.method.own_generator.set_state(state["own_generator"])
        self.method.own_seed = state["own_seed"]

    def averaged(self) -> AbstractContextManager[None]:
        """The context in which networks are to be evaluated before training has finished.

        Inside, the method's modules hold their averages, if these are kept; after the last epoch they hold them anyway.
        """
        return nullcontext() if self.average is None or self.finished else self.average.in_place()

    def _parts(self) -> dict[str, Any]:
        _, *others = self.method.optimizers.items()  # the first is the base class's
        parts = {**self.method.modules, **{f"optimizer of {name}": optimizer for name, optimizer in others}}
        parts["method"] = self.method
        return parts if self.average is None else {**parts, "average": self.average}


def hold_out(images: Images, share: float) -> tuple[Images, Images]:
    """Splits every (1 / share)-th image off: the same ones whenever a training is set up again."""
    is_held_out = _held_out_marks(len(images), share)
    return images.subset((~is_held_out).nonzero()[:, 0]), images.subset(is_held_out.nonzero()[:, 0])


def training_steps_in_epoch(splits: DataSplits, settings: TrainingSettings) -> int:
    """Steps of an epoch of :class:`TrainingLoop`.

    Raises:
        ValueError: if there are fewer images than one batch.
    """
    return steps_in_epoch(int((~_held_out_marks(len(splits.train), settings.held_out_share)).sum()), settings)


def _held_out_marks(num_images: int, share: float) -> Tensor:
    return (torch.arange(num_images + 1) * share).floor().diff() > 0
