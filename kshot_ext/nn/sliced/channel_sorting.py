"""Sorting channels by importance, so that the leading ones, which narrow sub-networks use, are those that count most.

    importance[c] = sum |weight[:, c]| of the layer that reads them

Channels between two layers may be put into any order, if all layers that make, carry and read them go along: the
network computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.narrowing import Sliced
from kshot_ext.nn.sliced.squeeze_excite import DynamicSE
from kshot_ext.nn.sliced.switchable import SwitchableBatchNorm2d


def sort_channels(
    reader: nn.Module,
    carriers: Iterable[nn.Module],
    *,
    importance: Tensor | None = None,
    kept_widths: Sequence[int] = (),
    channels_per_group: int = 1,
) -> Tensor:
    """Put the channels between layers into the order of their importance, in place; outputs stay the same.

    Args:
        reader: the layer that reads the channels, a convolution or linear map, of torch or sliced: its input channels
            move.
        carriers: what the channels come from and pass on their way: convolutions and linear maps, depthwise ones too,
            whose output channels move; batch and group norms; `DynamicSE`, whose inner channels are sorted as well.
            Activations need no mention.
        importance: `[C]`; default: the sum of the absolute weights by which the reader reads each channel.
        kept_widths: widths that go on being made of the channels that they have now: channels move only between two of
            these. For networks whose narrow parts are trained already.
        channels_per_group: channels that move together, those of a group norm's group; default: 1.

    Returns:
        The order, `[C]`: channel c is now what `order[c]` was.

    Raises:
        ValueError: if layers have other channel counts, are grouped in another way, or hold gradients, which would be
            those of other channels: call `zero_grad` before. State that an optimiser keeps is not moved.

    Example:
        >>> make, read = nn.Linear(2, 3), nn.Linear(3, 1)
        >>> _ = read.weight.data.copy_(torch.tensor([[1.0, -3.0, 2.0]]))
        >>> sort_channels(read, [make]), read.weight.data
        (tensor([1, 2, 0]), tensor([[-3.,  2.,  1.]]))

    Paper: once-for-all, arXiv 1908.09791.
    """
    axis, weight = _axis_of_inputs(_inner(reader))
    channels = weight.shape[axis]
    moves = [(_inner(reader), "inputs"), *((_inner(layer), "outputs") for layer in carriers)]
    _require_movable(moves, channels)
    if importance is None:
        importance = weight.detach().abs().sum([d for d in range(weight.dim()) if d != axis])
    order = _order(importance, channels, kept_widths, channels_per_group)
    for layer, side in moves:
        _move(layer, side, order)
    return order


def _order(importance: Tensor, channels: int, kept_widths: Sequence[int], together: int) -> Tensor:
    if list(importance.shape) != [channels]:
        raise ValueError(f"importance must be [{channels}], one for each channel, got {list(importance.shape)}")
    if channels % together:
        raise ValueError(f"channels_per_group must divide {channels}, got {together}")
    ends = sorted({*kept_widths, channels})
    if ends[0] < 1 or ends[-1] > channels or any(end % together for end in ends):
        raise ValueError(f"kept_widths must be 1 to {channels}, multiples of {together}, got {list(kept_widths)}")
    parts = []
    for begin, end in zip([0, *ends], ends):
        of_groups = importance[begin:end].unflatten(0, (-1, together)).mean(1)
        groups = of_groups.argsort(descending=True, stable=True)
        parts.append(begin + (groups[:, None] * together + torch.arange(together, device=groups.device)).flatten())
    return torch.cat(parts)


def _inner(layer: nn.Module) -> nn.Module:
    """The layer that holds the parameters."""
    return next(layer.children()) if isinstance(layer, Sliced) else layer


def _axis_of_inputs(layer: Any) -> tuple[int, Tensor]:
    """The axis of a reader's weight that counts its input channels, and the weight."""
    if not isinstance(getattr(layer, "weight", None), Tensor) or layer.weight.dim() < 2:
        raise ValueError(f"expected a convolution or a linear map that reads the channels, got {type(layer).__name__}")
    if getattr(layer, "groups", 1) != 1:
        raise ValueError(f"a reader must have one group, got a {type(layer).__name__} with {layer.groups}")
    return (2 if isinstance(layer, KShotModule) else 1), layer.weight


def _require_movable(moves: list[tuple[nn.Module, str]], channels: int) -> None:
    for layer, side in moves:
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None:
                raise ValueError(
                    f"{name} of a {type(layer).__name__} holds a gradient, which would be that of other channels: call "
                    "zero_grad before channels are sorted"
                )
        if isinstance(layer, SwitchableBatchNorm2d):
            raise ValueError("switchable norms have parameters for each width: channels cannot move between widths")
        if side == "inputs":
            continue
        found = layer.channel if isinstance(layer, DynamicSE) else _outputs_of(layer)
        if found != channels:
            raise ValueError(f"expected {channels} channels out of each carrier, got {found} of {type(layer).__name__}")
        groups = getattr(layer, "groups", 1)
        if groups not in (1, channels):
            raise ValueError(f"a carrier must have one group, or one for each channel, got {groups}")


def _outputs_of(layer: nn.Module) -> int:
    parameter = next(iter(layer._parameters.values()), None)
    if parameter is None:
        raise ValueError(f"expected a layer with parameters for each channel, got {type(layer).__name__}")
    return parameter.shape[1 if isinstance(layer, KShotModule) else 0]


@torch.no_grad()
def _move(layer: nn.Module, side: str, order: Tensor) -> None:
    if isinstance(layer, DynamicSE):
        _move(layer.fc.reduce, "inputs", order)
        _move(layer.fc.expand, "outputs", order)
        sort_channels(layer.fc.expand, [layer.fc.reduce])
        return
    if side == "inputs":
        axis, weight = _axis_of_inputs(layer)
        weight.copy_(weight.index_select(axis, order.to(weight.device)))
        return
    copies = isinstance(layer, KShotModule)
    for table, axis in ((layer._parameters, int(copies)), (layer._buffers, 0)):
        for tensor in table.values():
            if tensor is not None and tensor.dim() > axis:
                tensor.copy_(tensor.index_select(axis, order.to(tensor.device)))
