"""Cuts an order of architectures into groups of nearly equal size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LEAST_SHARE = 0.5  # of an equal one


class OrderedGroups(nn.Module):
    """K groups by a pair of numbers, compared one after the other.

    Cuts come where the share of samples below is nearest to 1/K, 2/K, ... Values of the first number stay whole as long
    as every group then gets half of an equal share or more; else they are cut by the second.

    Args:
        pairs: of samples, float64 ``[S, 2]``.
        num_groups: K.
        what: names what the pairs count, for messages.

    Raises:
        ValueError: if there are fewer different pairs than groups.

    Example:
        >>> groups = OrderedGroups(torch.tensor([[0.0, 5.0], [1.0, 5.0], [1.0, 7.0], [2.0, 5.0]]), 3, "layers")
        >>> groups([(0, 9), (1, 9), (5, 0)])
        tensor([0, 1, 2])
    """

    cuts: Tensor

    def __init__(self, pairs: Tensor, num_groups: int, what: str) -> None:
        super().__init__()
        pairs = pairs.double()
        whole = torch.stack([pairs[:, 0], torch.full_like(pairs[:, 0], -torch.inf)], dim=1)
        cuts = _cuts(whole, num_groups, _LEAST_SHARE / num_groups)
        if cuts is None:
            cuts = _cuts(pairs, num_groups, None)
        if cuts is None:
            different = len(pairs.unique(dim=0))
            raise ValueError(
                f"shots: expected at most {different}, one for each number of {what} and of multiply-accumulates that "
                f"random architectures have, got {num_groups}; or take another start"
            )
        self.register_buffer("cuts", cuts)

    def forward(self, pairs: Sequence[tuple[float, float]]) -> Tensor:
        """The group of each pair, int64 ``[M]``."""
        first, second = torch.tensor(pairs, dtype=torch.float64, device=self.cuts.device).reshape(-1, 2, 1).unbind(1)
        cut_first, cut_second = self.cuts.unbind(1)
        return ((first > cut_first) | ((first == cut_first) & (second >= cut_second))).sum(dim=1)


def _cuts(pairs: Tensor, num_groups: int, least_share: float | None) -> Tensor | None:
    """The first pair of each group but the lowest, ``[K - 1, 2]``.

    None if a group's share would not be above the least; without a least share, if there are fewer values than groups.
    """
    values, counts = pairs.unique(dim=0, return_counts=True)  # sorted by the first number, then the second
    if len(values) < num_groups:
        return None
    below = counts.cumsum(0) / len(pairs)  # share of samples up to each value
    wanted = torch.arange(1, num_groups, dtype=below.dtype) / num_groups
    last = (below[:, None] - wanted).abs().argmin(dim=0)  # of the group below each cut
    if least_share is None:
        last = _parted(last, len(values))
    shares = torch.cat([below.new_zeros(1), below[last], below.new_ones(1)]).diff()
    if bool((shares <= (least_share or 0.0)).any()):
        return None
    return values[last + 1]


def _parted(last: Tensor, num_values: int) -> Tensor:
    """The nearest places that leave no group empty, where a common value has drawn several cuts to itself.

    Example:
        >>> _parted(torch.tensor([2, 2, 5, 6, 6]), 8)
        tensor([2, 3, 4, 5, 6])
    """
    steps = torch.arange(len(last))
    last = (last - steps).cummax(dim=0).values + steps
    highest = num_values - 2 - (len(last) - 1 - steps)
    return torch.minimum(last, highest)
