"""Training that can stop after any epoch and later go on as if it never had."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.datasets.streamed import Images, lost_workers
from kshot_ext.nas.training.divergence import DivergedError, check_weights
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.optimization import OptimizationSettings


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: its number in the epoch (from 1), how many there are, and its loss."""

    step: int
    num_steps: int
    loss: float


OnStep = Callable[[StepReport], None]


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


class EpochTrainer(ABC):
    """Keeps the images, the optimiser's schedule and the state of a training by epochs.

    Args:
        images: what one epoch goes through.
        optimizer: its learning rate is the highest; it moves as the settings say.
        splits: mean, standard deviation and augmentation of the images.
        settings: epochs and batch size.
        generator: source of every random choice.

    Raises:
        ValueError: if there are fewer images than one batch, or the device lacks the precision.
    """

    def __init__(
        self,
        images: Images,
        optimizer: Optimizer,
        splits: DataSplits,
        settings: OptimizationSettings,
        generator: torch.Generator,
    ) -> None:
        self.images = images
        self.optimizer = optimizer
        self.splits = splits
        self.settings = settings
        self.generator = generator
        self.epoch = 0
        device = optimizer.param_groups[0]["params"][0].device
        self.gradient_steps = GradientSteps(settings.precision, device)
        self.steps_per_epoch = steps_in_epoch(len(images), settings)
        num_steps = settings.epochs * self.steps_per_epoch
        self.schedule = LambdaLR(optimizer, lambda step: settings.learning_rate_factor(step, num_steps))

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.settings.epochs

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on as if never stopped: tensors and plain values."""
        parts = {name: part.state_dict() for name, part in self._all_parts().items()}
        return {"epoch": self.epoch, "generator": self.generator.get_state(), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken, of a trainer made with the same arguments."""
        self.epoch = state["epoch"]
        self.generator.set_state(state["generator"])
        for name, part in self._all_parts().items():
            part.load_state_dict(state[name])

    @abstractmethod
    def _parts(self) -> dict[str, _Stateful]:
        """What is trained, and optimisers besides the first."""

    def _all_parts(self) -> dict[str, _Stateful]:
        own: dict[str, _Stateful] = {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "gradient_steps": self.gradient_steps,
        }
        return {**self._parts(), **own}

    def _steps(self, on_step: OnStep | None, step: Callable[[Tensor, Tensor], float]) -> None:
        """Runs one epoch of ``step(images, labels) -> loss``, moves the schedule, reports each step.

        Raises:
            RuntimeError: if training has finished.
            DivergedError: if a step raises it, or leaves weights that are not finite; the epoch then does not count.
            DataError: if an image cannot be read.
        """
        if self.finished:
            raise RuntimeError(f"train_epoch: training has finished its {self.settings.epochs} epochs")
        number = 0
        try:
            with closing(self.random_batches(self.images, self.generator)) as batches, lost_workers():
                for number, (images, labels) in enumerate(batches, 1):
                    loss = step(images, labels)
                    self.schedule.step()
                    if on_step is not None:
                        on_step(StepReport(number, self.steps_per_epoch, loss))
            check_weights({name: part for name, part in self._parts().items() if isinstance(part, nn.Module)})
        except DivergedError as error:
            where = f"epoch {self.epoch + 1}, step {number} of {self.steps_per_epoch}"
            raise DivergedError(f"{where}: {error}; {self._cure()}") from error
        self.epoch += 1

    def _cure(self) -> str:
        """What keeps a training from diverging."""
        settings = self.settings
        clipping = f"lower clip_norm ({settings.clip_norm:g})" if settings.clip_norm else "set clip_norm (0: no limit)"
        rise = f"raise rise_steps ({settings.rise_steps})"
        return f"to mend that, lower learning_rate ({settings.learning_rate:g}), {clipping}, or {rise}"

    def random_batches(
        self, images: Images, generator: torch.Generator
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Shuffled, varied batches, all of full size: batch norm in training cannot use a batch of one."""
        return batches(
            images,
            min(self.settings.batch_size, len(images)),
            mean=self.splits.mean,
            std=self.splits.std,
            generator=generator,
            augment=self.splits.augmentation,
            drop_last=True,
        )


def steps_in_epoch(num_images: int, settings: OptimizationSettings) -> int:
    """How many whole batches there are.

    Raises:
        ValueError: if there is none.
    """
    steps = num_images // settings.batch_size
    if steps < 1:
        raise ValueError(f"batch_size: expected at most the {num_images} images trained on, got {settings.batch_size}")
    return steps
