"""What training a supernet and training one network share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kshot_ext.nas.checks import check_at_least, check_between


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """Nesterov SGD whose learning rate falls to zero along half a cosine, on a smoothed cross-entropy.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, at least 2 (batch norm needs them).
        learning_rate: at the start.
        momentum: Nesterov momentum, above 0 and below 1.
        weight_decay: L2 penalty on all weights.
        label_smoothing: share of the target spread evenly over the classes, below 1.

    Raises:
        ValueError: if a value is out of range.
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_at_least("epochs", self.epochs, 1)
        check_at_least("batch_size", self.batch_size, 2)
        check_at_least("learning_rate", self.learning_rate, 0)
        check_between("momentum", self.momentum, 1e-6, 1)
        check_at_least("weight_decay", self.weight_decay, 0)
        check_between("label_smoothing", self.label_smoothing, 0, 1)


@dataclass
class Tally:
    """Running mean of loss and accuracy over the images of an epoch."""

    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> float:
        """Counts a batch: mean loss, scores ``[B, num_classes]``, labels ``[B]``. Returns the loss."""
        value = loss.item()
        self.images += len(labels)
        self.loss_sum += value * len(labels)
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        return value

    @property
    def loss(self) -> float:
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        return self.correct / self.images
