"""Networks of once-for-all as they come: their layers become ours, in their place, with their tensors and names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kshot_ext.nn.fusing import fuse_modules
from kshot_ext.nn.gated_conv import GatedConv2d
from kshot_ext.nn.sliced.batch_norm import DynamicBatchNorm2d
from kshot_ext.nn.sliced.conv import DynamicConv2d
from kshot_ext.nn.sliced.convolution import SlicedConv, half_of
from kshot_ext.nn.sliced.group_conv import DynamicGroupConv2d
from kshot_ext.nn.sliced.group_norm import DynamicGroupNorm
from kshot_ext.nn.sliced.linear import DynamicLinear
from kshot_ext.nn.sliced.separable_conv import DynamicSeparableConv2d
from kshot_ext.nn.sliced.squeeze_excite import DynamicSE

_MODULE_OF_LAYERS = "elastic_nn.modules.dynamic_op"
_MODULE_OF_ACTIVATIONS = "utils.pytorch_modules"
_KINDS = {
    each.__name__: each
    for each in (
        DynamicConv2d, DynamicSeparableConv2d, DynamicGroupConv2d, DynamicLinear, DynamicBatchNorm2d, DynamicGroupNorm,
        DynamicSE,
    )
}  # fmt: skip
_ACTIVATIONS = {"Hswish": nn.Hardswish}  # torch rounds the gradient of a hard sigmoid to float32, also in float64


@dataclass(frozen=True)
class AdoptionReport:
    """What `adopt` did with the layers of a model, by name.

    Attributes:
        adopted: the layers that are ours now, and the class of each.
        left: layers of the library that stayed as they were, and the reason of each.
    """

    adopted: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        counts = {kind: list(self.adopted.values()).count(kind) for kind in sorted(set(self.adopted.values()))}
        lines = [f"adopted: {len(self.adopted)}", *(f"  {count} {kind}" for kind, count in counts.items())]
        lines += [f"left as they are: {len(self.left)}", *(f"  {name}: {reason}" for name, reason in self.left.items())]
        return "\n".join(lines)


def adopt(model: nn.Module, also: Mapping[type[nn.Module], type[nn.Module]] | None = None) -> AdoptionReport:
    """Make the layers of a once-for-all network ours, in their place: it computes the same, by our kernels.

    They change class. Parameters, buffers, their names, attributes such as `active_out_channel`, hooks and optimisers
    stay, so that checkpoints load in both directions and the library's own code goes on working: sampling
    sub-networks, `get_active_subnet`, `set_running_statistics`, `re_organize_middle_weights`. Hard swish becomes
    torch's, which is the same function. Convolutions, and norms and activations behind them, then run as chains, as
    `kshot_ext.fuse` makes them; `kshot_ext.unfuse` undoes that alone.

    Args:
        model: any module; changed in place. Its layers are known by name: `Dynamic...` of a module `...dynamic_op`,
            as in once-for-all and what is derived from it.
        also: classes of other code that mean the same as those of ours to which they are mapped, and have the same
            attributes.

    Returns:
        What was adopted, and what was left and why; it can be printed.

    Raises:
        ValueError: if the model has no such layer.

    Example:
        >>> class Theirs(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.max_feature_dim, self.bn = 8, nn.BatchNorm2d(8)
        >>> model = nn.Sequential(Theirs())
        >>> print(adopt(model, {Theirs: DynamicBatchNorm2d}))
        adopted: 1
          1 DynamicBatchNorm2d
        left as they are: 0
        >>> type(model[0]) is DynamicBatchNorm2d
        True
    """
    adopted: dict[str, str] = {}
    left: dict[str, str] = {}
    for name, layer in list(model.named_modules()):
        kind = (also or {}).get(type(layer)) or _kind_of(layer)
        if kind is None:
            ancestor = next((each for each in type(layer).__mro__[1:] if _kind_named(each) is not None), None)
            if ancestor is not None and not isinstance(layer, tuple(_KINDS.values())):
                left[name] = f"{type(layer).__name__} is a subclass of {ancestor.__name__}, and may mean something else"
        elif "forward" in vars(layer):
            left[name] = "it has a forward of its own"
        else:
            _TAKE.get(kind, _take)(layer, kind)
            adopted[name] = kind.__name__
    if not adopted:
        raise ValueError(f"{type(model).__name__} has no layer of once-for-all to adopt{_reasons(left)}")
    fuse_modules(model)
    return AdoptionReport(adopted, left)


def _reasons(left: Mapping[str, str]) -> str:
    return "".join(f"\n  {name}: {reason}" for name, reason in left.items())


def _kind_of(layer: nn.Module) -> type[nn.Module] | None:
    return _kind_named(type(layer))


def _kind_named(kind: type) -> type[nn.Module] | None:
    """Our class for one of theirs."""
    if kind.__module__.endswith(_MODULE_OF_LAYERS):
        return _KINDS.get(kind.__name__)
    return _ACTIVATIONS.get(kind.__name__) if kind.__module__.endswith(_MODULE_OF_ACTIVATIONS) else None


def _take(layer: nn.Module, kind: type[nn.Module]) -> None:
    layer.__class__ = kind


def _take_conv(layer: Any, kind: type[nn.Module]) -> None:
    """The inner layer of theirs does not say how it is used: no padding, no dilation."""
    conv = layer.conv
    if kind is DynamicSeparableConv2d:
        usual = kind.KERNEL_TRANSFORM_MODE
        mode = getattr(type(layer), "KERNEL_TRANSFORM_MODE", usual)
        if mode != usual:
            layer.KERNEL_TRANSFORM_MODE = mode
    layer.__class__ = kind
    conv.padding = tuple(half_of(size) for size in conv.kernel_size)
    conv._reversed_padding_repeated_twice = [side for size in reversed(conv.padding) for side in (size, size)]
    conv.dilation = layer.dilation if isinstance(layer.dilation, tuple) else (layer.dilation, layer.dilation)


def _take_squeeze_excite(layer: Any, kind: type[nn.Module]) -> None:
    layer.__class__ = kind
    layer.divisor = 8  # theirs is a constant of the library
    for part in (layer.fc.reduce, layer.fc.expand):
        if type(part) is nn.Conv2d:
            part.__class__ = GatedConv2d


_TAKE: dict[type[nn.Module], Callable[[nn.Module, type[nn.Module]], None]] = {
    DynamicSE: _take_squeeze_excite,
    **{kind: _take_conv for kind in _KINDS.values() if issubclass(kind, SlicedConv)},
}
