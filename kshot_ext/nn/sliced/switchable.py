"""Norms of which each width has one of its own, as slimmable networks' `SwitchableBatchNorm2d`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nn.sliced.batch_norm import inner_norm


class SwitchableBatchNorm2d(nn.Module):
    """One `torch.nn.BatchNorm2d` for each width: parameters and running statistics are those of the width in use.

        y = bn[i](x),    num_features_list[i] the channels of x

    Widths of a network may have equal channels in some layer, such as the last; there, set `active_index`. The
    parameters are `bn.0.weight`, `bn.1.weight`, ..., as in slimmable networks.

    Args:
        num_features_list: channels of each width.
        num_shots: K copies of each norm's parameters, mixed by the code that `kshot_ext.set_code` gives; default: plain
            ones.

    Attributes:
        active_index: which norm is used; None for the one that has the input's channels.

    Raises:
        ValueError: if no norm, or more than one, has the input's channels.

    Example:
        >>> norm = SwitchableBatchNorm2d([4, 8])
        >>> norm(torch.randn(2, 4, 3, 3)).shape
        torch.Size([2, 4, 3, 3])

    Paper: slimmable neural networks, arXiv 1812.08928.
    """

    def __init__(
        self,
        num_features_list: Sequence[int],
        *,
        num_shots: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features_list, self.num_features = list(num_features_list), max(num_features_list)
        self.bn = nn.ModuleList(
            inner_norm(features, num_shots, device=device, dtype=dtype) for features in self.num_features_list
        )
        self.active_index: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.bn[self._index_for(x)](x)
        return output

    def _index_for(self, x: Tensor) -> int:
        fitting = [i for i, features in enumerate(self.num_features_list) if features == x.shape[1]]
        if self.active_index is not None:
            if self.active_index not in fitting:
                raise ValueError(
                    f"active_index={self.active_index} is not one of the norms for {x.shape[1]} channels, {fitting}: "
                    f"there are {self.num_features_list}"
                )
            return self.active_index
        if len(fitting) != 1:
            raise ValueError(
                f"expected one norm for {x.shape[1]} channels among {self.num_features_list}, got {len(fitting)}"
                + ("; set active_index" if fitting else "")
            )
        return fitting[0]
