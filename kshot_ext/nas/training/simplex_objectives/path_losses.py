"""Objectives that are a function of the paths' losses; the simplest is their mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import ClassVar

import torch
from torch import Tensor

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.frozen import frozen
from kshot_ext.nas.training.simplex_objectives.objective import Batch, PathLosses, SimplexObjective, StepTools


class WeighedLosses(SimplexObjective):
    """An objective L(l_1, .., l_n) of the held-out losses of a step's n paths. By the chain rule its gradient is

        sum_i dL/dl_i * dl_i/dcode_i * dcode_i/dparameters

    The losses of all paths must be known before the first factor is. So each path's gradient is first taken down to
    its code, of K numbers a row, after which its graph is freed; then the codes' gradients are weighed and passed on.
    The factors come from losses over all processes, so these agree on them.

    Attributes:
        same_images: whether all paths of a step see one batch, which losses that are compared have to, or one each.
    """

    same_images: ClassVar[bool] = True

    @abstractmethod
    def factors(self, losses: Tensor, paths: Sequence[Architecture], space: SearchSpace) -> Tensor:
        """``n * dL/dl_i``: how much each path's loss counts, compared to the mean of all.

        Args:
            losses: float64 ``[n]``, finite.
            paths: whose they are.
            space: which the paths are from.

        Returns:
            float64 ``[n]``.
        """

    def backward(self, paths: Sequence[Architecture], batches: Iterator[Batch], tools: StepTools) -> float:
        losses = PathLosses(tools)
        codes = [tools.simplex_net([path])[0] for path in paths]
        leaves = [code.detach().requires_grad_() for code in codes]
        with frozen(tools.supernet):
            for path, leaf, batch in zip(paths, leaves, self._batches(batches, len(paths))):
                tools.gradient_steps.backward(losses.add(path, leaf, batch) / len(paths))
        values = torch.tensor(losses.whole(), dtype=torch.float64)
        for code, leaf, factor in zip(codes, leaves, self.factors(values, paths, tools.supernet.space).tolist()):
            code.backward(factor * leaf.grad)
        return losses.mean()

    def _batches(self, batches: Iterator[Batch], count: int) -> Iterator[Batch]:
        return repeat(next(batches), count) if self.same_images else islice(batches, count)


class MeanLoss(WeighedLosses):
    """The mean held-out loss of the paths, each on a batch of its own:

        L = mean_i l_i

    It makes codes what is best for the average path. (Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with
    K-shot Supernets", ICML 2021.)

    Example:
        >>> MeanLoss().factors(torch.tensor([1.0, 3.0]), (), None)
        tensor([1., 1.])
    """

    same_images = False

    def factors(self, losses: Tensor, paths: Sequence[Architecture], space: SearchSpace) -> Tensor:
        return torch.ones_like(losses)


def log_macs(paths: Sequence[Architecture], space: SearchSpace) -> Tensor:
    """Logarithms of the paths' multiply-accumulates, float64 ``[n]``."""
    return torch.tensor([space.count_macs(path) for path in paths], dtype=torch.float64).clamp(min=1).log()
