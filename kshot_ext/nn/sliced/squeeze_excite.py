"""Squeeze-excite of elastic width, as once-for-all's `DynamicSE`."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nn.conv import KShotConv2d
from kshot_ext.nn.deferred import Value, finished, times
from kshot_ext.nn.fused_form import TakesValues
from kshot_ext.nn.gated_conv import GatedConv2d


class DynamicSE(TakesValues):
    """Squeeze-excite whose width is the input's: `mid(C')` channels between, `mid(C') = divisible(C' / reduction)`.

        y = x * hard_sigmoid(expand(relu(reduce(mean(x)))))

    `divisible` rounds to a multiple of `divisor`, by at most a tenth downwards. The parameters are `fc.reduce.weight`,
    `fc.reduce.bias`, `fc.expand.weight` and `fc.expand.bias`, as in once-for-all.

    Args:
        max_channel: channels of the whole layer.
        reduction, divisor: see above.
        num_shots: K copies of the parameters, mixed by the code that `kshot_ext.set_code` gives; default: plain ones.

    `forward(x)`: `[N, C', H, W]` to the same shape.

    Example:
        >>> DynamicSE(64)(torch.randn(2, 48, 5, 5)).shape
        torch.Size([2, 48, 5, 5])

    Papers: squeeze-and-excitation, arXiv 1709.01507; once-for-all, arXiv 1908.09791.
    """

    def __init__(
        self,
        max_channel: int,
        reduction: int = 4,
        divisor: int = 8,
        *,
        num_shots: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channel, self.reduction, self.divisor = max_channel, reduction, divisor
        middle = self.middle_channels(max_channel)

        def linear(inputs: int, outputs: int) -> nn.Module:
            if num_shots is None:
                return GatedConv2d(inputs, outputs, 1, device=device, dtype=dtype)
            return KShotConv2d(inputs, outputs, 1, device=device, dtype=dtype, num_shots=num_shots)

        self.fc: Any = nn.Sequential(
            OrderedDict(
                reduce=linear(max_channel, middle),
                relu=nn.ReLU(inplace=True),
                expand=linear(middle, max_channel),
                h_sigmoid=nn.Hardsigmoid(inplace=True),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self._factors(x)

    def run(self, value: Value) -> Value:
        x = finished(value)
        return times(x, self._factors(x))

    def _factors(self, x: Tensor) -> Tensor:
        channels, fc = x.shape[1], self.fc
        y = fc.relu(fc.reduce(x.mean((2, 3), keepdim=True), out_channels=self.middle_channels(channels)))
        factors: Tensor = fc.h_sigmoid(fc.expand(y, out_channels=channels))
        return factors

    def middle_channels(self, channels: int) -> int:
        """Channels between the two maps at a width."""
        return divisible(channels // self.reduction, self.divisor)

    def get_active_reduce_weight(self, num_mid: int, in_channel: int) -> Tensor:
        """The weight of the first map at these widths, a view; of K copies all of them. So are the other three."""
        part: Tensor = self.fc.reduce.weight[..., :num_mid, :in_channel, :, :]
        return part

    def get_active_reduce_bias(self, num_mid: int) -> Tensor:
        part: Tensor = self.fc.reduce.bias[..., :num_mid]
        return part

    def get_active_expand_weight(self, num_mid: int, in_channel: int) -> Tensor:
        part: Tensor = self.fc.expand.weight[..., :in_channel, :num_mid, :, :]
        return part

    def get_active_expand_bias(self, in_channel: int) -> Tensor:
        part: Tensor = self.fc.expand.bias[..., :in_channel]
        return part

    def extra_repr(self) -> str:
        return f"max_channel={self.channel}, reduction={self.reduction}, divisor={self.divisor}"


def divisible(value: float, divisor: int) -> int:
    """`value` as the nearest multiple of `divisor`, the next one where that would be less than nine tenths of it.

    Example:
        >>> divisible(30, 8), divisible(11, 8), divisible(3, 8)
        (32, 16, 8)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
