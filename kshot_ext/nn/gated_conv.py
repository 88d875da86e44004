"""Gated convolution module: `torch.nn.Conv2d` whose output channels can be gated and sliced."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext import functional as KF


class GatedConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with widths and gates: constructor and state dict are those of the plain layer.

    `forward(input, gate=None, out_channels=None)`: the input's channel count is the input width, `out_channels`
    the output width, and `gate`, `[C_out]` or `[N, C_out]`, a factor per output channel; see `gated_conv2d`.

    Example:
        >>> import torch
        >>> GatedConv2d(8, 16, 3, padding=1)(torch.randn(2, 4, 5, 5), out_channels=12).shape
        torch.Size([2, 12, 5, 5])
    """

    def forward(self, input: Tensor, gate: Tensor | None = None, out_channels: int | None = None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return KF.gated_conv2d(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups,
            gate=gate, out_channels=out_channels,
        )  # fmt: skip
