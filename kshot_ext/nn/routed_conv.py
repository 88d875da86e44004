"""A convolution that routes: several weights, mixed for each sample by factors that come with the call."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext.nn.conversions import register_routing

_PAIR = tuple[int, int]


class RoutedConv2d(nn.Module):
    """A 2D convolution whose weight each sample mixes from E experts, as CondConv does.

        output[n] = conv2d(input[n], sum_e routing[n, e] * weight[e]) + sum_e routing[n, e] * bias[e]

    `forward(input, routing)`: the routing is `[N, E]`, any real numbers. It is `kshot_conv2d` with a code per sample;
    gradients reach all operands. Parameters are kept as timm's `CondConv2d` keeps them, the weight as rows
    `[E, C_out * C_in/groups * KH * KW]`, so that checkpoints load in both directions; `kshot_ext.convert` puts this
    class in the place of timm's.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups: as in `torch.nn.Conv2d`.
        padding: zeros on each side; or `"same"`, as many as TensorFlow adds for this input: `ceil(size / stride)`
            outputs, and of an odd number one more at the end.
        bias: whether each expert has one.
        num_experts: E.

    Raises:
        ValueError: for another text than `"same"`.

    Example:
        >>> layer = RoutedConv2d(4, 8, 3, padding=1, num_experts=3)
        >>> layer(torch.randn(2, 4, 5, 5), torch.rand(2, 3)).shape
        torch.Size([2, 8, 5, 5])

    Paper: Yang et al., "CondConv: Conditionally Parameterized Convolutions for Efficient Inference", NeurIPS 2019.
    """

    plain: type[nn.Module] | None = None
    """The class whose place it takes; None if it was made as it is."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | _PAIR,
        stride: int | _PAIR = 1,
        padding: int | _PAIR | str = 0,
        dilation: int | _PAIR = 1,
        groups: int = 1,
        bias: bool = False,
        num_experts: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(padding, str) and padding != "same":
            raise ValueError(f'padding must be a number, two, or "same", got {padding!r}')
        self.dynamic_padding = padding == "same"
        # torch checks the arguments, and starts each expert as a layer of its own.
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        usual = 0 if self.dynamic_padding else padding
        geometry = kernel_size, stride, usual, dilation, groups, bias
        experts = [nn.Conv2d(in_channels, out_channels, *geometry, **where) for _ in range(num_experts)]
        first = experts[0]
        self.in_channels, self.out_channels, self.groups = first.in_channels, first.out_channels, first.groups
        self.kernel_size, self.stride, self.dilation = first.kernel_size, first.stride, first.dilation
        self.padding = first.padding
        self.num_experts = num_experts
        self.weight_shape = tuple(first.weight.shape)
        self.weight = nn.Parameter(torch.stack([expert.weight.detach().flatten() for expert in experts]))
        if bias:
            biases = [expert.bias.detach() for expert in experts if expert.bias is not None]
            self.bias = nn.Parameter(torch.stack(biases))
        else:
            self.register_parameter("bias", None)

    def forward(self, input: Tensor, routing: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.dynamic_padding:
            input, padding = F.pad(input, same_border(input, self.kernel_size, self.stride, self.dilation)), 0
        weight = self.weight.view(self.num_experts, *self.weight_shape)
        return KF.kshot_conv2d(input, weight, routing, self.bias, self.stride, padding, self.dilation, self.groups)

    @classmethod
    def adopt(cls, layer: Any) -> None:
        """Make a layer of a registered class one of this class, in its place; its tensors and names stay."""
        layer.plain = type(layer)
        layer.__class__ = cls

    def release(self) -> None:
        """Make it again what it was before `adopt`."""
        kind = vars(self).pop("plain", None)
        if kind is not None:
            self.__class__ = kind

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={'same' if self.dynamic_padding else self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}, num_experts={self.num_experts}"
        )


def same_border(
    input: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> list[int]:
    """Zeros around an image `[..., H, W]`, in the order of `F.pad`: `ceil(size / stride)` outputs along each axis."""
    border: list[int] = []
    for size, k, s, d in zip(reversed(input.shape[-2:]), reversed(kernel), reversed(stride), reversed(dilation)):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        border += [total // 2, total - total // 2]
    return border


register_routing("timm.layers.cond_conv2d.CondConv2d", RoutedConv2d)
