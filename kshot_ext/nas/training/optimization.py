"""What training a supernet and training one network share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from kshot_ext.nas.checks import check_at_least, check_between, check_one_of
from kshot_ext.nas.task import CLASSIFICATION, Task
from kshot_ext.nas.training.gradient_steps import PRECISIONS


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """Nesterov SGD whose learning rate may rise, then falls to zero along half a cosine, on a smoothed cross-entropy.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, at least 2 (batch norm needs them).
        learning_rate: at the start, or the end of the rise.
        rise_steps: steps over which the learning rate rises to it evenly first. Small batches and short trainings start
            roughly without: which operations fare well may then be decided by luck in the first hundred steps.
        momentum: Nesterov momentum, above 0 and below 1.
        weight_decay: L2 penalty on weights.
        decay_norms: whether it also acts on biases and the parameters of norm layers.
        label_smoothing: share of the target spread evenly over the classes, below 1.
        clip_norm: largest Euclidean norm of a step's gradient; 0 for no limit.
        precision: of convolutions and matrix products: ``float32``, ``bfloat16`` or, on CUDA only, ``float16``.

    Raises:
        ValueError: if a value is out of range.
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = 0.1
    rise_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 4e-5
    decay_norms: bool = False
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_at_least("epochs", self.epochs, 1)
        check_at_least("batch_size", self.batch_size, 2)
        check_at_least("learning_rate", self.learning_rate, 0)
        check_at_least("rise_steps", self.rise_steps, 0)
        check_between("momentum", self.momentum, 1e-6, 1)
        check_at_least("weight_decay", self.weight_decay, 0)
        check_between("label_smoothing", self.label_smoothing, 0, 1)
        check_at_least("clip_norm", self.clip_norm, 0)
        check_one_of("precision", self.precision, PRECISIONS)

    def learning_rate_factor(self, step: int, num_steps: int) -> float:
        """What the learning rate is multiplied with at a step, counted from 0, of a training of so many.

        Example:
            >>> settings = OptimizationSettings(epochs=1, rise_steps=3)
            >>> [round(settings.learning_rate_factor(step, 8), 2) for step in range(9)]
            [0.25, 0.48, 0.64, 0.69, 0.5, 0.31, 0.15, 0.04, 0.0]
        """
        return min((step + 1) / (self.rise_steps + 1), 1) * self.learning_rate_fall(step, num_steps)

    def learning_rate_fall(self, step: int, num_steps: int) -> float:
        """The part of that factor which falls, 1 to 0: half a cosine, without the rise before it."""
        return (1 + math.cos(math.pi * step / num_steps)) / 2


@dataclass
class Tally:
    """Running mean of loss and metric over the images of an epoch; of classes the metric is the accuracy."""

    images: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, task: Task = CLASSIFICATION) -> float:
        """Counts a batch: mean loss, outputs ``[B, num_outputs]``, and labels of a task. Returns the loss."""
        value = loss.item()
        self.images += len(labels)
        self.loss_sum += value * len(labels)
        self.correct += task.metric_sum(logits.detach(), labels)
        return value

    def join(self, other: Tally) -> None:
        """Counts what another tally has counted."""
        self.images += other.images
        self.loss_sum += other.loss_sum
        self.correct += other.correct

    @property
    def loss(self) -> float:
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        return self.correct / self.images
