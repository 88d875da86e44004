"""A convolution of which each call uses the leading channels, as once-for-all's `DynamicConv2d`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_ext.nn.narrowing import Widths, require_at_most, require_same
from kshot_ext.nn.sliced.convolution import ConvOperands, Size, SlicedConv, inner_conv


class DynamicConv2d(SlicedConv):
    """Convolution whose widths a call chooses: the input's channels, and the first `active_out_channel` outputs.

        y[n, o] = sum_{i < C_in'} weight[o, i] (*) x[n, i],    o < C_out',    padding kernel_size // 2, no bias

    It is `gated_conv2d`, which reads the slice where it lies. The parameter is `conv.weight`, as in once-for-all.

    Args:
        max_in_channels, max_out_channels: channels of the whole layer.
        kernel_size: odd, or two odd sizes.
        stride, dilation: as in `torch.nn.Conv2d`; the padding does not depend on them.
        ws_eps: standardise each filter in use, adding this to its deviation (arXiv 1903.10520); default: no.
        num_shots: K copies of the weight, mixed by the code that `kshot_ext.set_code` gives; default: a plain weight.

    Attributes:
        active_out_channel: the output width of calls that name none.

    `forward(x, out_channel=None)`: `[N, C_in', H, W]` to `[N, C_out', H', W']`; float32, float64 and half types, as
    `kshot_conv2d`, whose errors and gradients it has.

    Example:
        >>> layer = DynamicConv2d(8, 16, kernel_size=3)
        >>> layer.active_out_channel = 12
        >>> layer(torch.randn(2, 4, 5, 5)).shape
        torch.Size([2, 12, 5, 5])

    Paper: once-for-all, arXiv 1908.09791.
    """

    def __init__(
        self,
        max_in_channels: int,
        max_out_channels: int,
        kernel_size: Size = 1,
        stride: Size = 1,
        dilation: Size = 1,
        *,
        ws_eps: float | None = None,
        num_shots: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.max_in_channels, self.max_out_channels = max_in_channels, max_out_channels
        self.kernel_size, self.stride, self.dilation, self.ws_eps = kernel_size, stride, dilation, ws_eps
        self.conv = inner_conv(
            max_in_channels, max_out_channels, kernel_size, stride, dilation, 1, num_shots, device=device, dtype=dtype
        )
        self.active_out_channel = max_out_channels

    def forward(self, x: Tensor, out_channel: int | None = None) -> Tensor:
        return self._convolved(x, self.operands(x, out_channel))

    def operands(self, x: Tensor, out_channel: int | None = None) -> ConvOperands:
        width = self.active_out_channel if out_channel is None else out_channel
        weight, code = self._dictionary(x)
        if self.eps_in_use is not None:
            weight, code = self._finished(weight[:, :width, : x.shape[1]], code)
        conv = self.conv
        return ConvOperands(weight, code, conv.stride, conv.padding, conv.dilation, 1, width)

    def get_active_filter(self, out_channel: int, in_channel: int) -> Tensor:
        """The weight of these widths, `[C_out', C_in', KH, KW]`; K copies are mixed."""
        return self._mixed(self._all_copies()[:, :out_channel, :in_channel])

    def fix_like(self, plain: nn.Conv2d) -> None:
        require_same(self.conv, plain, "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        if plain.bias is not None:
            raise ValueError("bias: expected none")
        widths = Widths(plain.in_channels, plain.out_channels)
        require_at_most(Widths(self.max_in_channels, self.max_out_channels), widths)
        self.widths, self.active_out_channel = widths, widths.outputs

    def to_plain(self) -> nn.Conv2d:
        return self._plain_of(
            self.get_active_filter(self.fixed_widths.outputs, self.fixed_widths.inputs), 1, self.conv.padding
        )

    def extra_repr(self) -> str:
        return f"active_out_channel={self.active_out_channel}" + (f", ws_eps={self.ws_eps}" if self.ws_eps else "")
