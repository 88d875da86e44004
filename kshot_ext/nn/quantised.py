"""Layers whose weight and input have few bits, plain ones and those with K copies.

    y = conv(q(x), q(w)) + bias,    w = sum_k code_k * weight[k]  of a K-shot layer

The mixed weight is what is quantised, so a layer has the same levels as the plain one that `kshot_ext.merge` makes of
it. Parameters stay in floating point, for training to move them by less than a step; so does the bias. See
`kshot_ext.nn.quantiser` for q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext.nn.code import KShotModule, LeafOfGraphs
from kshot_ext.nn.conv import KShotConv2d
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.quantiser import check_bits, quantise_activation, quantise_weight

if TYPE_CHECKING:
    from typing_extensions import Self


class Quantised(nn.Module):
    """Mixin of a layer that has bits.

    Attributes:
        weight_bits, activation_bits: of the weight and of the input, 2 to 8.
        inner_dims: how many dimensions of weight and input one step covers.
    """

    weight_bits: int
    activation_bits: int
    inner_dims: ClassVar[int]

    def __init__(self, *arguments: Any, weight_bits: int, activation_bits: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.set_bits(weight_bits, activation_bits)

    def set_bits(self, weight_bits: int, activation_bits: int) -> None:
        self.weight_bits = check_bits("weight_bits", weight_bits)
        self.activation_bits = check_bits("activation_bits", activation_bits)

    def quantised(self, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer computes with, instead of its input and its weight."""
        return (
            quantise_activation(input, self.activation_bits, self.inner_dims),
            quantise_weight(weight, self.weight_bits, self.inner_dims),
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight_bits={self.weight_bits}, activation_bits={self.activation_bits}"


class QuantisedConv2d(Quantised, nn.Conv2d):
    """`torch.nn.Conv2d` on a quantised input with a quantised weight.

    Args:
        weight_bits, activation_bits: 2 to 8; all other arguments are those of `torch.nn.Conv2d`.

    Example:
        >>> import torch
        >>> layer = QuantisedConv2d(3, 8, 3, weight_bits=2, activation_bits=4)
        >>> layer(torch.randn(1, 3, 8, 8)).shape
        torch.Size([1, 8, 6, 6])
    """

    inner_dims = 3

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(*self.quantised(input, self.weight), self.bias)
        return output


class QuantisedLinear(Quantised, nn.Linear):
    """`torch.nn.Linear` on a quantised input, row by row, with a quantised weight.

    Args:
        weight_bits, activation_bits: 2 to 8; all other arguments are those of `torch.nn.Linear`.

    Example:
        >>> import torch
        >>> QuantisedLinear(4, 2, weight_bits=8, activation_bits=8)(torch.randn(5, 4)).shape
        torch.Size([5, 2])
    """

    inner_dims = 1

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(*self.quantised(input, self.weight), self.bias)


class _KShotQuantised(Quantised, KShotModule):
    """Mixin of a K-shot layer that has bits."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def mixed(self, code: Tensor | None, out_channels: int | None, in_channels: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias under a code, of the leading channels.

        Raises:
            ValueError: if there is a code for each sample, whose weights would each need steps of their own.
        """
        code = self.resolve_code(code)
        if code.dim() != 1:
            raise ValueError(
                f"code: expected [{self.num_shots}], one for all samples, as {type(self).__name__} quantises the "
                f"mixed weight, got {list(code.shape)}"
            )
        weight = KF.effective_weight(self.weight, code, out_channels=out_channels, in_channels=in_channels)
        if self.bias is None:
            return weight, None
        return weight, KF.effective_weight(self.bias, code, out_channels=out_channels)

    @classmethod
    def geometry(cls, layer: nn.Module) -> dict[str, Any]:
        bits = {name: getattr(layer, name) for name in ("weight_bits", "activation_bits")}
        return {**super().geometry(layer), **bits}

    def narrowed(self, plain: Any) -> Self:
        if not isinstance(plain, Quantised):
            raise ValueError(f"expected a layer with bits, got {type(plain).__name__}")
        return super().narrowed(plain)


class KShotQuantisedConv2d(_KShotQuantised, LeafOfGraphs, KShotConv2d):
    """:class:`QuantisedConv2d` with K copies: weight `[K, C_out, C_in/groups, KH, KW]`, bias `[K, C_out]`.

    Args:
        weight_bits, activation_bits: 2 to 8; all other arguments are those of `kshot_ext.nn.KShotConv2d`.

    Example:
        >>> import torch
        >>> layer = KShotQuantisedConv2d(3, 8, 3, num_shots=2, weight_bits=2, activation_bits=4)
        >>> layer(torch.randn(1, 3, 8, 8), torch.tensor([0.5, 0.5])).shape
        torch.Size([1, 8, 6, 6])
    """

    plain = QuantisedConv2d  # type: ignore[assignment]  # its constructor takes bits, too
    inner_dims = 3

    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:  # type: ignore[override]  # no slices
        weight, bias = self.mixed(code, self._width, self.in_channels // self.groups)
        input, weight = self.quantised(input, weight)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._border, mode=self.padding_mode), 0
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class KShotQuantisedLinear(_KShotQuantised, LeafOfGraphs, KShotLinear):
    """:class:`QuantisedLinear` with K copies: weight `[K, C_out, C_in]`, bias `[K, C_out]`.

    Args:
        weight_bits, activation_bits: 2 to 8; all other arguments are those of `kshot_ext.nn.KShotLinear`.

    Example:
        >>> import torch
        >>> layer = KShotQuantisedLinear(4, 2, num_shots=3, weight_bits=8, activation_bits=8)
        >>> layer(torch.randn(5, 4), torch.tensor([1.0, 0.0, 0.0])).shape
        torch.Size([5, 2])
    """

    plain = QuantisedLinear  # type: ignore[assignment]  # its constructor takes bits, too
    inner_dims = 1

    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:  # type: ignore[override]  # no slices
        weight, bias = self.mixed(code, self._width, self.in_features)
        return F.linear(*self.quantised(input, weight), bias)


_KINDS: dict[type[nn.Module], type[Any]] = {
    QuantisedConv2d: KShotQuantisedConv2d,
    QuantisedLinear: KShotQuantisedLinear,
}
for _plain, _kind in _KINDS.items():
    register_conversion(_plain, _kind.from_plain, _kind.to_plain)


def with_bits_of(plain: nn.Module, layer: Any) -> KShotModule:
    """A K-shot layer, which is given the bits of a plain layer of its kind in its place, if that has any.

    Raises:
        ValueError: if the plain layer is a subclass of one with bits, and may mean something else by them.
    """
    if isinstance(plain, Quantised):
        if type(plain) not in _KINDS:
            raise ValueError(f"expected a QuantisedConv2d or QuantisedLinear, got its subclass {type(plain).__name__}")
        layer.__class__ = _KINDS[type(plain)]
        layer.set_bits(plain.weight_bits, plain.activation_bits)
    bearer: KShotModule = layer
    return bearer
