"""Group norm whose groups keep their size at any width, as once-for-all's `DynamicGroupNorm`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.mixed import KShotMixed
from kshot_ext.nn.narrowing import Narrowable, Widths, filled, require_at_most, require_same


class DynamicGroupNorm(Narrowable, nn.GroupNorm):
    """`torch.nn.GroupNorm` whose width is the input's, in groups of `channel_per_group` channels.

    `forward(x)`: `[N, C', ...]` to the same shape; weight and bias are used by their leading part.

    Args:
        num_groups, num_channels, eps, affine: as in `torch.nn.GroupNorm`, of the whole layer.
        channel_per_group: channels of a group; default: `num_channels / num_groups`.

    Raises:
        ValueError: if the width is no multiple of `channel_per_group`, or more than there is.

    `kshot_ext.convert` makes K copies of its parameters.

    Example:
        >>> DynamicGroupNorm(4, 16)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])

    Paper: once-for-all, arXiv 1908.09791.
    """

    plain = nn.GroupNorm

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        channel_per_group: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        self.channel_per_group = num_channels // num_groups if channel_per_group is None else channel_per_group

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        self.require_inputs(channels)
        if channels % self.channel_per_group or not 1 <= channels <= self.num_channels:
            raise ValueError(
                f"input must have a multiple of {self.channel_per_group} channels, at most {self.num_channels}, "
                f"got {list(x.shape)}"
            )
        weight, bias = (p if p is None else p[:channels] for p in (self.weight, self.bias))
        return F.group_norm(x, channels // self.channel_per_group, weight, bias, self.eps)

    @property
    def bn(self) -> DynamicGroupNorm:
        """The layer itself: code for once-for-all's batch norms finds the parameters here, too."""
        return self

    def fix_like(self, plain: nn.GroupNorm) -> None:
        require_same(self, plain, "affine", "eps")
        self.widths = Widths(plain.num_channels, plain.num_channels)
        require_at_most(Widths(self.num_channels, self.num_channels), self.widths)
        if plain.num_groups * self.channel_per_group != plain.num_channels:
            raise ValueError(
                f"expected groups of {self.channel_per_group} channels, got {plain.num_groups} groups of "
                f"{plain.num_channels} channels"
            )

    def to_plain(self) -> nn.GroupNorm:
        channels = self.fixed_widths.outputs
        groups = channels // self.channel_per_group
        layer = nn.GroupNorm(groups, channels, self.eps, self.affine, device="meta")
        values = {name: p if p is None else p[:channels] for name, p in self._parameters.items()}
        return filled(layer, values, self.weight, self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, channel_per_group={self.channel_per_group}"


class KShotDynamicGroupNorm(KShotMixed):
    """`DynamicGroupNorm` with K copies of weight and bias; it takes one code for the batch."""

    plain = DynamicGroupNorm


register_conversion(DynamicGroupNorm, KShotDynamicGroupNorm.from_plain, KShotDynamicGroupNorm.to_plain)
