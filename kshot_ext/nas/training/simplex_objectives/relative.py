"""Held-out loss where it is lower than a path's cost predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.simplex_objectives.path_losses import WeighedLosses, log_macs


class RelativeLoss(WeighedLosses):
    """A soft minimum of the paths' losses, each relative to what the path's cost m_i predicts:

        L = -s log mean_i exp(-r_i / s),   r_i = l_i - slope * log m_i,   n dL/dl_i = n softmax_i(-r / s)

    A path that is better than its cost predicts weighs more: a search under a budget chooses among those, and errors
    among the rest cost nothing. To subtract the prediction and take the mean would change nothing, as the prediction
    does not depend on the code: its gradient is that of the plain mean. In the soft minimum the difference decides
    the weights. All paths of a step see one batch, so what makes its images hard cancels.

    slope and s are those of a least-squares line through log m and l, and the standard deviation around it; they
    count as constants in the gradient. Each step has an intercept of its own, since losses fall during training and
    vary with the batch, so only deviations from the step's means enter, as sums that forget exponentially.

    Example:
        >>> objective = RelativeLoss()
        >>> for losses in ([2.0, 1.0, 0.4], [1.9, 1.0, 0.3]):
        ...     factors = objective.weigh(torch.tensor(losses), torch.tensor([0.0, 1.0, 2.0]))
        >>> factors.argmax()  # the one in the middle is below the line through all
        tensor(1)
    """

    compares_paths = True

    def factors(self, losses: Tensor, paths: Sequence[Architecture], space: SearchSpace) -> Tensor:
        return self.weigh(losses, log_macs(paths, space))

    def weigh(self, losses: Tensor, costs: Tensor) -> Tensor:
        """The factors of paths by their losses and the logarithms of their costs, both ``[n]``, which are then seen."""
        dm, dl = costs - costs.mean(), losses - losses.mean()
        slope, deviation = _line(self.remember(torch.stack([dm.new_tensor(len(dm) - 1), dm @ dm, dm @ dl, dl @ dl])))
        if deviation == 0:  # nothing to tell paths apart by
            return torch.ones_like(losses)
        return len(losses) * ((slope * dm - dl) / deviation).softmax(dim=0)


def _line(sums: Tensor) -> tuple[float, float]:
    """Slope of the loss over the logarithm of cost, and the standard deviation around that line; 0 if unknown.

    Args:
        sums: of n - 1 and of the products of deviations from a step's means: cost with cost, cost with loss, loss with
            loss.
    """
    count, mm, ml, ll = sums.tolist()
    slope = ml / mm if mm > 0 else 0.0
    freedom = count - (mm > 0)
    squares = ll - slope * ml
    return slope, math.sqrt(squares / freedom) if freedom > 0 and squares > 1e-12 * ll else 0.0
