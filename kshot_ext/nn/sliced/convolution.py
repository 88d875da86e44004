"""What the sliced convolutions share: an inner layer, plain or K-shot, of which each call uses a part.

    y = conv2d(x, part(sum_k code[k] * weight[k])),    padding = kernel_size // 2

The inner layer keeps the parameters, under the names of once-for-all's layers. Its own forward does not run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.conv import KShotConv2d
from kshot_ext.nn.narrowing import Sliced, filled

Size = int | tuple[int, int]


class ConvOperands(NamedTuple):
    """What `kshot_conv2d` takes besides its input."""

    weight: Tensor  # [K, C_out, C_in/groups, KH, KW]
    code: Tensor  # [K] or [N, K]
    stride: int | tuple[int, ...]
    padding: int | tuple[int, ...] | str
    dilation: int | tuple[int, ...]
    groups: int
    out_channels: int | None


class SlicedConv(Sliced):
    """Base of the sliced convolutions.

    Attributes:
        conv: the inner layer: `torch.nn.Conv2d`, or `KShotConv2d` with K copies.
        ws_eps: what is added to the deviation of each filter in weight standardisation; None for none of it.
    """

    plain: ClassVar[type[nn.Module]] = nn.Conv2d
    conv: nn.Conv2d | KShotConv2d
    ws_eps: float | None = None

    def operands(self, x: Tensor) -> ConvOperands:
        """The operands of a call with the active settings."""
        raise NotImplementedError

    @property
    def eps_in_use(self) -> float | None:
        """`ws_eps`, or that of an inner layer which once-for-all's `set_bn_param(ws_eps=...)` has put here."""
        return self.ws_eps if self.ws_eps is not None else getattr(self.conv, "WS_EPS", None)

    def _convolved(self, x: Tensor, operands: ConvOperands) -> Tensor:
        weight, code, stride, padding, dilation, groups, out_channels = operands
        return KF.kshot_conv2d(x, weight, code, None, stride, padding, dilation, groups, out_channels=out_channels)

    def _dictionary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All copies of the weight, and the code for the input's samples; a plain weight is a single copy."""
        self.require_inputs(x.shape[1])
        conv = self.conv
        if isinstance(conv, KShotConv2d):
            return conv.weight, conv.resolve_code(conv.code_of_rows(x))
        return single_copy(conv.weight)

    def _finished(self, weight: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """The part of a dictionary that a call uses, standardised if it shall be, which only a mixed weight can be."""
        eps = self.eps_in_use
        if eps is None:
            return weight, code
        if code.dim() == 2:
            raise ValueError(
                f"{type(self).__name__}: a weight that is standardised takes one code for the batch, [K], "
                f"got {list(code.shape)}"
            )
        return single_copy(standardised(KF.effective_weight(weight, code), eps))

    def _mixed(self, part: Tensor, code: Tensor | None = None) -> Tensor:
        """The weight of a part of the dictionary under a code, by default the one that was set."""
        code = self.conv.resolve_code(code) if isinstance(self.conv, KShotConv2d) else part.new_ones(1)
        return KF.effective_weight(*self._finished(part, code))

    def _all_copies(self) -> Tensor:
        return self.conv.weight if isinstance(self.conv, KShotConv2d) else self.conv.weight[None]

    def _plain_of(self, weight: Tensor, groups: int, padding: Any) -> nn.Conv2d:
        inputs, outputs = self.fixed_widths
        make: Callable[..., nn.Conv2d] = nn.Conv2d
        layer = make(
            inputs, outputs, tuple(weight.shape[2:]), self.conv.stride, padding, self.conv.dilation, groups, bias=False,
            device="meta",
        )  # fmt: skip
        return filled(layer, {"weight": weight}, self.conv.weight, self.training)


def inner_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size,
    dilation: Size,
    groups: int,
    num_shots: int | None,
    **where: Any,
) -> nn.Conv2d | KShotConv2d:
    """The layer that keeps the parameters, with K copies if `num_shots` says so."""
    arguments = in_channels, out_channels, kernel_size, stride, half_of(kernel_size), dilation, groups, False
    return (
        nn.Conv2d(*arguments, **where) if num_shots is None else KShotConv2d(*arguments, num_shots=num_shots, **where)
    )


def half_of(kernel_size: Size) -> Any:
    """The padding that keeps the size of an image at stride 1 and dilation 1; a dilation does not change it."""
    if isinstance(kernel_size, tuple):
        return half_of(kernel_size[0]), half_of(kernel_size[1])
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be an odd int >= 1, or two of them, got {kernel_size!r}")
    return kernel_size // 2


def single_copy(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A plain weight as a dictionary of one copy, and its code."""
    return weight[None], weight.new_ones(1)


def standardised(weight: Tensor, eps: float) -> Tensor:
    """Filters without their mean, over their deviation (unbiased) plus `eps`.

        result[o] = (weight[o] - mean(weight[o])) / (std(weight[o]) + eps)

    Paper: weight standardisation, arXiv 1903.10520.
    """
    rows = weight.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    return (centred / (centred.std(1, keepdim=True) + eps)).view_as(weight)
