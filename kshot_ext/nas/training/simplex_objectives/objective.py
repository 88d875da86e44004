"""The interface of what a simplex step makes small, and what an objective may use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet, path_loss
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.task import CLASSIFICATION, Task
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.divergence import check_path_losses
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.optimization import Tally

_KEPT = 0.99
"""Share of what was seen that a step keeps."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StepTools:
    """What an objective may use in one step.

    Args:
        supernet: gives the losses; its weights stay as they are.
        simplex_net: gives the codes, and gets the gradient.
        label_smoothing: of the cross-entropy.
        gradient_steps: the precision to compute in.
        processes: those that share each batch.
    """

    supernet: Supernet
    simplex_net: SimplexNet
    label_smoothing: float
    gradient_steps: GradientSteps
    processes: DataParallel
    task: Task = CLASSIFICATION


class SimplexObjective(ABC):
    """Something that codes should make small, besides the penalties that look at codes only.

    One object serves a whole training. What it keeps from step to step is in its ``state_dict``.

    Attributes:
        compares_paths: whether a step needs at least two of them.
        needs_images: whether a step looks at images, which are then held out for it.
        seen: what it has gathered by :meth:`remember`, float64; None before the first time.
        parts_equal_codes: whether its gradient can part codes that are all alike. One that looks at codes in a way
            that does not care which copy is which cannot: there its gradient is the same for all copies.
    """

    compares_paths: ClassVar[bool] = False
    needs_images: ClassVar[bool] = True
    parts_equal_codes: ClassVar[bool] = True

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    @abstractmethod
    def backward(self, paths: Sequence[Architecture], batches: Iterator[Batch], tools: StepTools) -> float | None:
        """Adds the objective's gradient to that of the simplex-net's parameters.

        Of several processes each adds a part, and the parts sum to the gradient that one process would get from the
        whole batches.

        Args:
            paths: those of the step.
            batches: images and labels that the supernet is not trained on, without end.
            tools: what to compute with.

        Returns:
            The mean cross-entropy of the paths on whole batches; None if it was not computed.

        Raises:
            DivergedError: if that of a path is not finite; in all processes.
        """

    def remember(self, values: Tensor) -> Tensor:
        """Sums of values over this step and those before, which fade: about the last hundred steps count."""
        self.seen = values if self.seen is None else _KEPT * self.seen + values
        return self.seen

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on: tensors and plain values."""
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken."""
        self.seen = state["seen"]


class PathLosses:
    """The cross-entropies of a step's paths: each on this process's part of a batch, in the end on whole batches."""

    def __init__(self, tools: StepTools) -> None:
        self._tools = tools
        self._tally = Tally()
        self._shares: list[float] = []
        self._paths: list[Architecture] = []
        self._codes: list[Tensor] = []

    def add(self, path: Architecture, code: Tensor, batch: Batch) -> Tensor:
        """What this process adds to the mean loss of a path, with its graph."""
        tools = self._tools
        images, labels, share = tools.processes.part(*batch)
        with tools.gradient_steps.autocast():
            loss, logits = path_loss(tools.supernet, path, code, images, labels, tools.label_smoothing, tools.task)
        self._shares.append(share * self._tally.add(loss, logits, labels, tools.task))
        self._paths.append(path)
        self._codes.append(code)
        return share * loss

    def whole(self) -> list[float]:
        """The loss of each path over all processes.

        Raises:
            DivergedError: if one is not finite.
        """
        losses = self._tools.processes.summed(self._shares)
        check_path_losses(losses, self._paths, self._codes)
        return losses

    def mean(self) -> float:
        """The mean over all images, of all processes."""
        return self._tools.processes.joined(self._tally).loss
