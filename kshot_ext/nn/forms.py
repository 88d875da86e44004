"""A plain layer's K-shot form, a K-shot layer's plain form, and how a layer takes on the other one.

A layer changes its class in its place, as lazy and parametrised modules of PyTorch do. So whoever holds it (a parent, a
list, a hook) holds the changed one, and its hooks, mode and attributes stay.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot_ext.nn.batch_norm import KShotBatchNorm2d
from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conv import KShotConv1d, KShotConv2d, KShotConv3d
from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.quantised import (
    KShotQuantisedConv2d,
    KShotQuantisedLinear,
    Quantised,
    QuantisedConv2d,
    QuantisedLinear,
)

KSHOT_CLASSES: dict[type[nn.Module], type[KShotModule]] = {
    QuantisedConv2d: KShotQuantisedConv2d,  # before their base classes, for who asks for a layer's kind
    QuantisedLinear: KShotQuantisedLinear,
    nn.Conv1d: KShotConv1d,
    nn.Conv2d: KShotConv2d,
    nn.Conv3d: KShotConv3d,
    nn.Linear: KShotLinear,
    nn.BatchNorm2d: KShotBatchNorm2d,
}
PLAIN_CLASSES: dict[type[nn.Module], type[nn.Module]] = {kshot: plain for plain, kshot in KSHOT_CLASSES.items()}
_STATE_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def kshot_form(layer: nn.Module, num_shots: int) -> KShotModule:
    """A K-shot layer with the geometry of a plain one (exactly of a class in `KSHOT_CLASSES`), on the meta device."""
    kind = type(layer)
    return KSHOT_CLASSES[kind](*_arguments(kind, layer), **_bits(kind, layer), device="meta", num_shots=num_shots)


def plain_form(layer: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A layer of the class `kind` with the geometry of a plain or K-shot one, on the meta device."""
    return kind(*_arguments(kind, layer), **_bits(kind, layer), device="meta")


def with_bits_of(plain: nn.Module, layer: KShotModule) -> KShotModule:
    """A K-shot layer, which is given the bits of a plain layer of its kind in its place, if that has any.

    Raises:
        ValueError: if the plain layer is a subclass of one with bits, and may mean something else by them.
    """
    if isinstance(plain, Quantised):
        if type(plain) not in KSHOT_CLASSES:
            raise ValueError(f"expected a QuantisedConv2d or QuantisedLinear, got its subclass {type(plain).__name__}")
        layer.__class__ = KSHOT_CLASSES[type(plain)]
        layer.set_bits(plain.weight_bits, plain.activation_bits)
    return layer


def take_form(
    layer: nn.Module,
    old: nn.Module,
    new: nn.Module,
    parameters: dict[str, Tensor | None],
    buffers: dict[str, Tensor | None],
) -> None:
    """Make a layer what `new` is, in its place.

    Args:
        layer: keeps its mode, its hooks, and the attributes that a layer like `old` does not have.
        old: a fresh layer of its present class.
        new: a fresh layer of the class that it gets; consumed.
        parameters, buffers: what it holds from then on.
    """
    added = {
        name: value for name, value in vars(layer).items() if name not in vars(old) and not hasattr(type(old), name)
    }
    common = {name: vars(layer)[name] for name in _STATE_OF_EVERY_MODULE}
    state = {**vars(new), **common, **added, "_parameters": parameters, "_buffers": buffers}
    layer.__class__ = type(new)
    vars(layer).clear()
    vars(layer).update(state)


def _arguments(kind: type[nn.Module], layer: nn.Module) -> tuple:
    if issubclass(kind, nn.Linear):
        return layer.in_features, layer.out_features, layer.bias is not None
    if kind is nn.BatchNorm2d:
        return layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    return *(getattr(layer, name) for name in names), layer.bias is not None, layer.padding_mode


def _bits(kind: type[nn.Module], layer: nn.Module) -> dict[str, Any]:
    names = ("weight_bits", "activation_bits") if issubclass(kind, Quantised) else ()
    return {name: getattr(layer, name) for name in names}
