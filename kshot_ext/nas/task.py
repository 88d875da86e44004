"""What networks learn: how outputs are compared with targets, while training and when networks are scored.

:class:`Classification` is the default. Another task is a subclass of :class:`Task` with a loss and a metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.nas.checks import check_one_of
from kshot_ext.nas.messages import one_line
from kshot_ext.nas.own_classes import is_given, is_own, load_own, own_errors, with_absolute_path


class Task(ABC):
    """The loss that networks make small, and the metric that people read.

    A subclass defines :meth:`loss` and :meth:`metric`; targets are then numbers, ``[N]`` or ``[N, T]``, and networks
    have T outputs (one for ``[N]``). It is made without arguments where the command line names it.

    Attributes:
        name: what people call it.
        metric_name: what people call the metric.
        loss_name: what they call the loss, and its unit.
        higher_is_better: whether a higher metric is better.
        in_percent: whether the metric is a share, shown in per cent.
        has_classes: whether targets are class indices, and outputs a logit for each class.

    Example:
        >>> class AbsoluteError(Task):
        ...     name = metric_name = "mean absolute error"
        ...     higher_is_better = False
        ...     def loss(self, outputs, targets):
        ...         return F.l1_loss(outputs, targets)
        ...     def metric(self, outputs, targets):
        ...         return (outputs - targets).abs().mean()
        >>> task = AbsoluteError()
        >>> float(task.loss(torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [2.0]])))
        1.5
    """

    name: ClassVar[str] = "task"
    metric_name: ClassVar[str] = "metric"
    loss_name: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = True
    in_percent: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch: a scalar, differentiable in the outputs.

        Args:
            outputs: of a network, floating point ``[B, num_outputs]``.
            targets: float32 ``[B, T]``; int64 ``[B]`` where the task has classes.
        """

    @abstractmethod
    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The metric of a batch, as its mean over the images: a scalar. Batches count by their sizes.

        Args:
            outputs: as in :meth:`loss`, float32.
            targets: as in :meth:`loss`.
        """

    def num_outputs(self, targets: Tensor, class_names: Sequence[str]) -> int:
        """How many outputs networks have: T by default."""
        return targets.shape[1]

    def prepared(self, targets: Tensor) -> Tensor:
        """Targets in the form that :meth:`loss` gets, ``[N, T]`` by default.

        Raises:
            ValueError: if the task cannot use them; the message says what it expects, and what came.
        """
        return targets.to(torch.float32).view(len(targets), -1)

    def training_loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """The loss of a training step. Targets that are no classes are not smoothed."""
        return self.loss(outputs, targets)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> float:
        """The loss of a batch times its size."""
        return float(self.loss(outputs, targets)) * len(targets)

    def metric_sum(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of a batch times its size; an image whose outputs are no numbers makes it no number."""
        return float(self.metric(outputs.float(), targets)) * len(targets)

    def score_name(self, score: str) -> str:
        """What people call a score: ``"loss"``, or the metric for ``"accuracy"``."""
        return self.metric_name if score == "accuracy" else score

    def shown(self, metric: float) -> str:
        """The metric as text.

        Example:
            >>> Classification().shown(0.5), Regression().shown(0.5)
            ('50.00%', '0.5')
        """
        return f"{metric:.2%}" if self.in_percent else f"{metric:.4g}"


class Classification(Task):
    """One of several classes for each image: cross-entropy, and the share of images that are right."""

    name = "classification"
    metric_name = "accuracy"
    loss_name = "loss (nats)"
    in_percent = True
    has_classes = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats; targets int64 ``[B]``, or probabilities ``[B, C]`` where images are mixed."""
        return F.cross_entropy(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Share of images whose highest logit is at their class; one with logits that are no numbers is wrong."""
        return outputs.new_tensor(self.metric_sum(outputs, targets) / len(targets))

    def num_outputs(self, targets: Tensor, class_names: Sequence[str]) -> int:
        return len(class_names)

    def prepared(self, targets: Tensor) -> Tensor:
        if targets.dtype != torch.int64 or targets.dim() != 1:
            got = f"{targets.shape[1]} numbers" if targets.dim() == 2 else f"floating point {float(targets[0])}"
            raise ValueError(
                f"task: classification expects an integer for every image, its class, got {got} for the first; "
                "name another task, such as regression or multi-label"
            )
        return targets

    def training_loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> float:
        return float(F.cross_entropy(outputs, targets, reduction="sum"))

    def metric_sum(self, outputs: Tensor, targets: Tensor) -> float:
        classes = targets if targets.dim() == 1 else targets.argmax(dim=1)
        right = (outputs.argmax(dim=1) == classes) & ~outputs.isnan().any(dim=1)  # argmax takes NaN for the highest
        return float(right.sum())


class Regression(Task):
    """One or several numbers for each image: mean squared error, and the mean absolute error as the metric."""

    name = "regression"
    metric_name = "mean absolute error"
    higher_is_better = False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over images and numbers."""
        return F.mse_loss(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error over images and numbers, in the unit of the targets."""
        return (outputs - targets).abs().mean()


class MultiLabel(Task):
    """Any of several labels for each image: binary cross-entropy, and the share of labels that are right."""

    name = "multi-label"
    metric_name = "share of labels right"
    in_percent = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy of logits, mean over images and labels."""
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Share of labels on whose side of zero the logit is."""
        return ((outputs > 0) == (targets > 0.5)).float().mean()

    def prepared(self, targets: Tensor) -> Tensor:
        if targets.dim() != 2 or not bool(((targets == 0) | (targets == 1)).all()):
            raise ValueError(
                "task: multi-label expects zeros and ones [N, T] as targets, a column for each label, got "
                f"{list(targets.shape)} from {targets.min():g} to {targets.max():g}"
            )
        return targets.to(torch.float32)


def check_task(task: Task, targets: Tensor, num_outputs: int) -> None:
    """Try a task on outputs of zero, so that what is wrong with it is found before training.

    Args:
        task: to be tried.
        targets: of some images.
        num_outputs: of networks.

    Raises:
        ValueError: if its loss is no differentiable scalar, its metric no scalar, or one of them fails.
    """
    outputs = torch.zeros(len(targets), num_outputs, device=targets.device, requires_grad=True)
    for name, function in (("loss", task.loss), ("metric", task.metric)):
        try:
            value = function(outputs, targets)
        except Exception as error:  # The task may be the user's.
            shapes = f"outputs {list(outputs.shape)} and targets {targets.dtype} {list(targets.shape)}"
            raise ValueError(f"task: {name} of {task.name} fails with {shapes}: {one_line(error)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"task: expected {name} of {task.name} to be a tensor of one number, got {got}")
        if name == "loss" and not value.requires_grad:
            raise ValueError(f"task: expected loss of {task.name} to be differentiable in the outputs, but it is not")


def check_task_name(name: str) -> None:
    """Raises `ValueError` for a name that :func:`task_named` cannot know."""
    if not is_own(name):
        check_one_of("task", name, TASKS)


def allow_own_task(name: str | None) -> None:
    """Lets the file of a task of the user's own be run, who has named it: on the command line, or in a program."""
    if name is not None and is_own(name):
        _allowed.add(with_absolute_path(name))


def task_named(name: str) -> Task:
    """The task of a name: one of :data:`TASKS`, ``FILE.py:CLASS``, or one that a program gave.

    Raises:
        ValueError: if there is none of that name, nobody has allowed to run its file, or it cannot be made without
            arguments.
    """
    check_task_name(name)
    if not is_own(name):
        return TASKS[name]()
    if not is_given(name) and with_absolute_path(name) not in _allowed:
        raise ValueError(
            f"task: expected --task {name} on the command line: it runs that file, which settings read from a file "
            "must not do by themselves (in a program: task=...)"
        )
    kind = load_own(name, "task", Task)
    with own_errors(name, "task"):
        return kind() if isinstance(kind, type) else kind


_allowed: set[str] = set()

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Classification, Regression, MultiLabel)}
"""The tasks that a setting may name."""

CLASSIFICATION = Classification()
