"""Training that has run away: weights, losses or scores that are no finite numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture

_STATISTICS = ("running_mean", "running_var")


class DivergedError(RuntimeError):
    """Training cannot go on, as there are no finite numbers to go on with; the message says where that began."""


def check_loss(loss: float) -> None:
    """Refuses a loss that is infinite or not a number.

    Raises:
        DivergedError: with the loss.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss}")


def check_path_losses(losses: Sequence[float], paths: Sequence[Architecture], codes: Iterable[Tensor]) -> None:
    """Refuses losses of paths, in the order of the paths and their codes, as :func:`check_loss` does.

    Raises:
        DivergedError: with the path, in digits as in reports, its code and its loss.
    """
    for loss, path, code in zip(losses, paths, codes):
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of path {path.short()} under the code {_shown(code)} is {loss}")


def check_weights(modules: Mapping[str, nn.Module]) -> None:
    """Refuses weights and batch-norm statistics that are not finite.

    A loss tells of the weights before a step. What the last step made of them no loss has seen.

    Args:
        modules: what is trained, by a name for messages.

    Raises:
        DivergedError: with the first such tensor's name.
    """
    for role, module in modules.items():
        statistics = (item for item in module.named_buffers() if item[0].endswith(_STATISTICS))
        for name, values in (*module.named_parameters(), *statistics):
            if not torch.isfinite(values).all():
                raise DivergedError(f"{role}.{name} is no longer finite")


def _shown(code: Tensor) -> str:
    """A code for people; the codes of many layers layer by layer."""
    rows = [", ".join(f"{entry:.3g}" for entry in row) for row in torch.atleast_2d(code.detach()).tolist()]
    return f"[{'; '.join(rows)}]"
