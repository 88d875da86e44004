"""By how much a path's step is made shorter or longer than its gradient says.

A dictionary step of rate K r moves the effective weight of a path with code c by K sum_k c_k^2 times r times the
gradient: once under equal codes, K times under a code that picks one copy. And paths need not all want the same rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from kshot_ext.nas.networks.cost_rank import CostRank
from kshot_ext.nas.spaces.architecture import Architecture


def concentration(code: Tensor) -> float:
    """How many times longer a path's step is by its code: ``K sum_k code_k^2``, 1 to K.

    Args:
        code: ``[K]``, or ``[L, K]``, whose mean over the layers counts.

    Example:
        >>> import torch
        >>> concentration(torch.tensor([0.5, 0.5])), concentration(torch.tensor([1.0, 0.0]))
        (1.0, 2.0)
    """
    return float(code.shape[-1] * code.square().sum(dim=-1).mean())


def cost_factor(rank: float, fall: float, strength: float) -> float:
    """What the step of a path is multiplied with, so that cheap paths' rates fall early and costly ones' late:

        f^(2^(strength * (1 - 2 rank)) - 1)

    So a path's own rate is ``f^(2^...)``: f itself for the median path, f^2 for the cheapest and sqrt(f) for the
    costliest at a strength of 1.

    Args:
        rank: of the path's cost, 0 to 1.
        fall: f, 1 down to 0, how far the rate of all paths has fallen; a rise before that is the same for all.
        strength: 0 for none.

    The idea, with another curve, is that of Jeon et al., "Subnet-Aware Dynamic Supernet Training for Neural
    Architecture Search", CVPR 2025: costly networks learn slower, so a rate for all fits the cheap ones.

    Example:
        >>> [cost_factor(rank, 0.25, 1.0) for rank in (0.0, 0.5, 1.0)]
        [0.25, 1.0, 2.0]
    """
    return max(fall, 1e-6) ** (2 ** (strength * (1 - 2 * rank)) - 1)


class PathSteps:
    """The factor of each path's loss in a dictionary step.

    Args:
        normalised: whether the steps of all paths are of one length, whatever their codes are.
        cost_strength: see :func:`cost_factor`.
        cost_rank: gives the ranks, if that is above 0.
    """

    def __init__(self, normalised: bool, cost_strength: float, cost_rank: Callable[[], CostRank]) -> None:
        self.normalised = normalised
        self.cost_strength = cost_strength
        self.cost_rank = cost_rank() if cost_strength > 0 else None

    def factor(self, path: Architecture, code: Tensor, fall: float) -> float:
        """What the loss of a path is multiplied with, when the rate of all paths has fallen to a part ``fall``."""
        evened = 1 / concentration(code) if self.normalised else 1.0
        return evened * self.mean_rate([path], fall)

    def mean_rate(self, paths: Sequence[Architecture], fall: float) -> float:
        """The mean factor by the costs of a step's paths, with which the limit of its gradient is multiplied.

        A rate says how far a step goes, not how large a gradient is: it must neither reach the limit nor stay below it.
        """
        if self.cost_rank is None:
            return 1.0
        factors = [cost_factor(rank, fall, self.cost_strength) for rank in self.cost_rank(paths).tolist()]
        return sum(factors) / len(factors)
