"""A depthwise convolution of elastic width and kernel size, as once-for-all's `DynamicSeparableConv2d`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.narrowing import Widths, require_at_most, require_same
from kshot_ext.nn.sliced.convolution import ConvOperands, Size, SlicedConv, half_of, inner_conv


class DynamicSeparableConv2d(SlicedConv):
    """Depthwise convolution whose width is the input's, and whose kernel is a part of the largest one.

        W_0 = weight,    W_t[c] = M_t vec(centre(W_{t-1}[c], s_t)),    y[n, c] = W_T[c] (*) x[n, c]

    along the sizes s_t of `kernel_size_list` from the largest down to the active one; see
    `kshot_ext.functional.kernel_window`. The padding is half the active kernel size. The parameters are `conv.weight`
    and, by size, `7to5_matrix`, `5to3_matrix`, which start as identities. K copies share the matrices.

    Args:
        max_in_channels: channels of the whole layer.
        kernel_size_list: odd sizes.
        stride, dilation: as in `torch.nn.Conv2d`.
        ws_eps: standardise each filter in use, adding this to its deviation (arXiv 1903.10520); default: no.
        num_shots: K copies of the weight, mixed by the code that `kshot_ext.set_code` gives; default: a plain weight.

    Attributes:
        KERNEL_TRANSFORM_MODE: of the class; None for smaller kernels that are the centres themselves, without matrices.
            It is looked at when a layer is made and in each call.
        active_kernel_size: that of calls that name none.

    `forward(x, kernel_size=None)`: `[N, C', H, W]` to `[N, C', H', W']`.

    Raises:
        ValueError: if a kernel size is even or not in the list; otherwise as `kshot_conv2d`.

    Example:
        >>> layer = DynamicSeparableConv2d(8, [3, 5, 7])
        >>> layer.active_kernel_size = 3
        >>> layer(torch.randn(2, 6, 5, 5)).shape, [name for name, _ in layer.named_parameters()]
        (torch.Size([2, 6, 5, 5]), ['5to3_matrix', '7to5_matrix', 'conv.weight'])

    Paper: once-for-all, arXiv 1908.09791.
    """

    KERNEL_TRANSFORM_MODE: ClassVar[int | None] = 1

    def __init__(
        self,
        max_in_channels: int,
        kernel_size_list: Sequence[int],
        stride: Size = 1,
        dilation: Size = 1,
        *,
        ws_eps: float | None = None,
        num_shots: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.max_in_channels, self.kernel_size_list = max_in_channels, list(kernel_size_list)
        self.stride, self.dilation, self.ws_eps = stride, dilation, ws_eps
        sizes = self._sizes()
        for size in sizes:
            half_of(size)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = inner_conv(
            max_in_channels, max_in_channels, sizes[0], stride, dilation, max_in_channels, num_shots, **where
        )
        if self.KERNEL_TRANSFORM_MODE is not None:
            for large, small in reversed(list(pairwise(sizes))):
                self.register_parameter(_matrix_name(large, small), nn.Parameter(torch.eye(small**2, **where)))
        self.active_kernel_size = sizes[0]

    def forward(self, x: Tensor, kernel_size: int | None = None) -> Tensor:
        return self._convolved(x, self.operands(x, kernel_size))

    def operands(self, x: Tensor, kernel_size: int | None = None) -> ConvOperands:
        size = self.active_kernel_size if kernel_size is None else kernel_size
        weight, code = self._dictionary(x)
        channels, groups = x.shape[1], self.max_in_channels
        if (size, size) != tuple(self.conv.kernel_size) or self.eps_in_use is not None:
            weight, code = self._finished(self._window(weight[:, :channels], size), code)
            groups = weight.shape[1]
        return ConvOperands(weight, code, self.conv.stride, size // 2, self.conv.dilation, groups, None)

    def get_active_filter(self, in_channel: int, kernel_size: int) -> Tensor:
        """The weight of this width and kernel size, `[C', 1, k, k]`; K copies are mixed."""
        return self._mixed(self._window(self._all_copies()[:, :in_channel], kernel_size))

    def fix_like(self, plain: Any) -> None:
        require_same(self.conv, plain, "stride", "dilation", "padding_mode")
        if plain.bias is not None:
            raise ValueError("bias: expected none")
        channels, (size, width) = plain.in_channels, plain.kernel_size
        require_at_most(Widths(self.max_in_channels, self.max_in_channels), Widths(channels, plain.out_channels))
        if not channels == plain.out_channels == plain.groups:
            raise ValueError(f"groups: expected as many as channels, {channels}, got {plain.groups}")
        if size != width or size not in self.kernel_size_list or plain.padding != (size // 2, size // 2):
            raise ValueError(
                f"kernel_size: expected one of {self.kernel_size_list} and half of it as padding, got "
                f"{tuple(plain.kernel_size)} and {plain.padding}"
            )
        self.widths, self.active_kernel_size = Widths(channels, channels), size

    def to_plain(self) -> nn.Conv2d:
        size, channels = self.active_kernel_size, self.fixed_widths.inputs
        return self._plain_of(self.get_active_filter(channels, size), channels, size // 2)

    def extra_repr(self) -> str:
        active = f"kernel_size_list={self.kernel_size_list}, active_kernel_size={self.active_kernel_size}"
        return active + (f", ws_eps={self.ws_eps}" if self.ws_eps else "")

    def _sizes(self) -> list[int]:
        """The kernel sizes, the largest first."""
        return sorted(set(self.kernel_size_list), reverse=True)

    def _window(self, weight: Tensor, size: int) -> Tensor:
        sizes = self._sizes()
        if size not in sizes:
            raise ValueError(f"kernel_size must be one of {self.kernel_size_list}, got {size!r}")
        if self.KERNEL_TRANSFORM_MODE is None:
            return KF.kernel_window(weight, size)
        steps = [pair for pair in pairwise(sizes) if pair[1] >= size]
        return KF.kernel_window(weight, size, [getattr(self, _matrix_name(*pair)) for pair in steps])


def _matrix_name(large: int, small: int) -> str:
    return f"{large}to{small}_matrix"
