"""A convolution of elastic kernel size and group count, as once-for-all's `DynamicGroupConv2d`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.narrowing import Widths, require_same
from kshot_ext.nn.sliced.convolution import ConvOperands, Size, SlicedConv, half_of, inner_conv


class DynamicGroupConv2d(SlicedConv):
    """Convolution with fewer taps and more groups than its weight has: of each filter a part is used.

        y = conv2d(x, centre(weight, kernel_size)[o, inputs of o's group], groups=active_groups)

    See `kernel_window` and `regrouped_weight` of `kshot_ext.functional`. The parameter is `conv.weight`, with the
    smallest group count. It is another layer than `kshot_ext.nn.DynamicGroupConv2d`, which learns its groups.

    Args:
        in_channels, out_channels: channels, of which every call uses all.
        kernel_size_list: odd sizes.
        groups_list: group counts; each a multiple of the smallest.
        stride, dilation: as in `torch.nn.Conv2d`.
        ws_eps: standardise each filter in use, adding this to its deviation (arXiv 1903.10520); default: no.
        num_shots: K copies of the weight, mixed by the code that `kshot_ext.set_code` gives; default: a plain weight.

    Attributes:
        active_kernel_size, active_groups: those of calls that name none.

    `forward(x, kernel_size=None, groups=None)`: `[N, C_in, H, W]` to `[N, C_out, H', W']`.

    Example:
        >>> layer = DynamicGroupConv2d(8, 16, [3, 5], [2, 4])
        >>> layer(torch.randn(1, 8, 6, 6), kernel_size=3, groups=4).shape
        torch.Size([1, 16, 6, 6])

    Paper: once-for-all, arXiv 1908.09791.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size_list: Sequence[int],
        groups_list: Sequence[int],
        stride: Size = 1,
        dilation: Size = 1,
        *,
        ws_eps: float | None = None,
        num_shots: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size_list, self.groups_list = list(kernel_size_list), list(groups_list)
        self.stride, self.dilation, self.ws_eps = stride, dilation, ws_eps
        for size in self.kernel_size_list:
            half_of(size)
        largest, groups = max(self.kernel_size_list), min(self.groups_list)
        self.conv = inner_conv(
            in_channels, out_channels, largest, stride, dilation, groups, num_shots, device=device, dtype=dtype
        )
        self.active_kernel_size, self.active_groups = largest, groups

    def forward(self, x: Tensor, kernel_size: int | None = None, groups: int | None = None) -> Tensor:
        return self._convolved(x, self.operands(x, kernel_size, groups))

    def operands(self, x: Tensor, kernel_size: int | None = None, groups: int | None = None) -> ConvOperands:
        size = self.active_kernel_size if kernel_size is None else kernel_size
        groups = self.active_groups if groups is None else groups
        if x.shape[1] != self.in_channels:
            raise ValueError(f"input must have {self.in_channels} channels, got {list(x.shape)}")
        weight, code = self._dictionary(x)
        weight, code = self._finished(self._part(weight, size, groups), code)
        return ConvOperands(weight, code, self.conv.stride, size // 2, self.conv.dilation, groups, None)

    def get_active_filter(self, kernel_size: int, groups: int) -> Tensor:
        """The weight of this kernel size and group count, `[C_out, C_in/groups, k, k]`; K copies are mixed."""
        return self._mixed(self._part(self._all_copies(), kernel_size, groups))

    def fix_like(self, plain: nn.Conv2d) -> None:
        require_same(self, plain, "in_channels", "out_channels")
        require_same(self.conv, plain, "stride", "dilation", "padding_mode")
        size = plain.kernel_size[0]
        if plain.bias is not None or plain.kernel_size != (size, size) or plain.padding != (size // 2, size // 2):
            raise ValueError(
                f"expected a square kernel, half of it as padding and no bias, got {tuple(plain.kernel_size)}, "
                f"{plain.padding} and bias={plain.bias is not None}"
            )
        self._part(self.conv.weight.detach(), size, plain.groups)  # which says what of these cannot be
        self.widths = Widths(plain.in_channels, plain.out_channels)
        self.active_kernel_size, self.active_groups = size, plain.groups

    def to_plain(self) -> nn.Conv2d:
        size, groups = self.active_kernel_size, self.active_groups
        return self._plain_of(self.get_active_filter(size, groups), groups, size // 2)

    def extra_repr(self) -> str:
        return (
            f"kernel_size_list={self.kernel_size_list}, groups_list={self.groups_list}, "
            f"active_kernel_size={self.active_kernel_size}, active_groups={self.active_groups}"
        )

    def _part(self, weight: Tensor, size: int, groups: int) -> Tensor:
        if size not in self.kernel_size_list:
            raise ValueError(f"kernel_size must be one of {self.kernel_size_list}, got {size!r}")
        if groups not in self.groups_list:
            raise ValueError(f"groups must be one of {self.groups_list}, got {groups!r}")
        if (size, size) != tuple(self.conv.kernel_size):
            weight = KF.kernel_window(weight, size)
        return weight if groups == self.conv.groups else KF.regrouped_weight(weight, self.conv.groups, groups)
