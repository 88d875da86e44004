"""Pairs of paths whose losses are in the wrong order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.simplex_objectives.path_losses import WeighedLosses, log_macs


class PairwiseRanking(WeighedLosses):
    """The mean loss, and half the mean over pairs of what a path's loss is above that of a cheaper one:

        L = mean_i l_i + 1/2 mean over pairs with m_a > m_b of max(0, l_a - l_b)
        n dL/dl_i = 1 + (pairs that i should win and loses - pairs that i should lose and wins) / (n - 1)

    Of two networks trained alone the one with more multiply-accumulates m is more often the better one; where the
    supernet says otherwise, sharing may be the cause. So in a pair that is out of order the costlier path counts more,
    and the cheaper one less. A pair of equal costs says nothing. With a half, the factors are 0 to 2: at a larger one,
    codes could be trained to make the loss of a cheap path worse. All paths of a step see one batch, so a pair is
    decided by the same images.

    Why a hinge without a margin: a pair in order needs nothing, and a margin or a logistic loss would need a scale.
    Why costs decide, not losses under equal codes: those are the one-shot ranking, which the codes are to mend.

    A ranking loss between paths by prior knowledge of them is from Dong et al., "Prior-Guided One-shot Neural
    Architecture Search", 2022 (arXiv 2206.13329), who train the weights with it; to train codes is ours.

    Example:
        >>> import torch
        >>> PairwiseRanking().weigh(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 9.0, 9.0]))
        tensor([0.0000, 1.5000, 1.5000])
    """

    compares_paths = True

    def factors(self, losses: Tensor, paths: Sequence[Architecture], space: SearchSpace) -> Tensor:
        return self.weigh(losses, log_macs(paths, space))

    def weigh(self, losses: Tensor, costs: Tensor) -> Tensor:
        """The factors of paths by their losses and the logarithms of their costs, both ``[n]``."""
        costlier = costs[:, None] > costs
        wrong = (costlier & (losses[:, None] > losses)).to(losses.dtype)  # [a, b]: a costs more than b and is worse
        return 1 + (wrong.sum(dim=1) - wrong.sum(dim=0)) / (len(losses) - 1)
