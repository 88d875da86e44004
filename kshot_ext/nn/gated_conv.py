"""Gated convolution module: `torch.nn.Conv2d` whose output channels can be gated and sliced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext.nn.narrowing import Narrowable, Widths, filled, require_at_most, require_same


class GatedConv2d(Narrowable, nn.Conv2d):
    """`torch.nn.Conv2d` with widths and gates: constructor and state dict are those of the plain layer.

    `forward(input, gate=None, out_channels=None)`: the input's channel count is the input width, `out_channels`
    the output width, and `gate`, `[C_out]` or `[N, C_out]`, a factor per output channel; see `gated_conv2d`.

    Example:
        >>> import torch
        >>> GatedConv2d(8, 16, 3, padding=1)(torch.randn(2, 4, 5, 5), out_channels=12).shape
        torch.Size([2, 12, 5, 5])
    """

    plain = nn.Conv2d

    def forward(self, input: Tensor, gate: Tensor | None = None, out_channels: int | None = None) -> Tensor:
        if self.widths is not None:
            self.require_inputs(input.shape[1])
            out_channels = self.widths.outputs if out_channels is None else out_channels
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return KF.gated_conv2d(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups,
            gate=gate, out_channels=out_channels,
        )  # fmt: skip

    def fix_like(self, plain: Any) -> None:
        require_same(self, plain, "kernel_size", "stride", "padding", "dilation", "padding_mode")
        if (plain.bias is None) != (self.bias is None):
            raise ValueError(f"bias: expected {self.bias is not None}, got {plain.bias is not None}")
        if self.groups > 1 or plain.groups > 1:
            group, wanted = ((c.in_channels // c.groups, c.out_channels // c.groups) for c in (self, plain))
            if group != wanted:
                raise ValueError(f"expected groups of {group} channels in and out, got {wanted}")
        self.widths = Widths(plain.in_channels, plain.out_channels)
        require_at_most(Widths(self.in_channels, self.out_channels), self.widths)

    def to_plain(self) -> nn.Conv2d:
        (inputs, outputs), group = self.fixed_widths, self.weight.shape[1]
        groups = 1 if self.groups == 1 else inputs // group
        make: Callable[..., nn.Conv2d] = nn.Conv2d
        layer = make(
            inputs, outputs, self.kernel_size, self.stride, self.padding, self.dilation, groups, self.bias is not None,
            self.padding_mode, device="meta",
        )  # fmt: skip
        bias = None if self.bias is None else self.bias[:outputs]
        values = {"weight": self.weight[:outputs, : inputs // groups], "bias": bias}
        return filled(layer, values, self.weight, self.training)
