"""Which kinds of plain layers have a K-shot form: the registry that `convert` and `merge` go by.

A kind is registered in the file of its K-shot class, so that a new kind is one file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import nn

from kshot_ext.nn.code import KShotModule


class Conversion(NamedTuple):
    """How one kind of layer becomes K-shot, and plain again."""

    to_kshot: Callable[[Any, int], KShotModule]
    to_plain: Callable[[Any], nn.Module]  # of what `to_kshot` gives


class RoutingClass(Protocol):
    """A class that takes the place of layers that route."""

    def adopt(self, layer: Any) -> None: ...


_Form = TypeVar("_Form", bound=KShotModule)
_CONVERSIONS: dict[type[nn.Module] | str, Conversion] = {}
_ROUTING: dict[type[nn.Module] | str, RoutingClass] = {}


def register_conversion(
    kind: type[nn.Module] | str,
    to_kshot: Callable[[Any, int], _Form],
    to_plain: Callable[[_Form], nn.Module],
) -> None:
    """Tell `convert` and `merge` of a kind of layers.

    Both functions give a layer of the same geometry (channels, stride, ...) as the one they get. Its tensors may be on
    the meta device: those with copies, or the mixed ones, take their place. A parameter keeps its name; in the K-shot
    layer it has one dimension more, the copies, in front.

    Args:
        kind: class of the plain layers, exactly: a subclass may mean something else by its weight. Or its qualified
            name, `"library.module.Class"`, for a library that need not be imported.
        to_kshot: `to_kshot(layer, num_shots)`; a `ValueError` of it says why this layer must stay plain.
        to_plain: `to_plain(kshot_layer)`.

    Raises:
        TypeError: if `kind` is neither a class of modules nor a name.

    Example:
        >>> import torch
        >>> import kshot_ext
        >>> from kshot_ext.nn import KShotLinear
        >>> class Projection(nn.Linear):
        ...     '''Another name for the same.'''
        >>> register_conversion(Projection, KShotLinear.from_plain, KShotLinear.to_plain)
        >>> kshot = kshot_ext.convert(nn.Sequential(Projection(4, 2)), num_shots=2)
        >>> kshot_ext.merge(kshot, torch.tensor([0.5, 0.5]))
        Sequential(
          (0): Projection(in_features=4, out_features=2, bias=True)
        )
    """
    if not (isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, nn.Module))):
        raise TypeError(f"kind must be a class of torch.nn.Module or its qualified name, got {kind!r}")
    _CONVERSIONS[kind] = Conversion(to_kshot, to_plain)
    names_of_kinds.cache_clear()


def conversion_of(kind: type[nn.Module]) -> Conversion | None:
    """The conversion of a class of plain layers; None if it has no K-shot form."""
    return _CONVERSIONS.get(kind) or _CONVERSIONS.get(f"{kind.__module__}.{kind.__qualname__}")


def registered_ancestor(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class itself, or the nearest one that it is derived from, of those with a K-shot form."""
    return next((each for each in kind.__mro__ if conversion_of(each) is not None), None)


def register_routing(kind: type[nn.Module] | str, own_class: RoutingClass) -> None:
    """Tell `convert` of a kind of layers that keep several weights already, and mix them by what a call brings.

    Such a layer gets no copies: it becomes one of `own_class` in its place, with the same tensors under the same names.

    Args:
        kind: class of the layers, exactly, or its qualified name.
        own_class: `kshot_ext.nn.RoutedConv2d`, or a class derived from it, whose attributes the kind has.
    """
    _ROUTING[kind] = own_class


def routing_class_of(kind: type[nn.Module]) -> RoutingClass | None:
    """The class that takes the place of a kind of layers that route; None if it is none."""
    return _ROUTING.get(kind) or _ROUTING.get(f"{kind.__module__}.{kind.__qualname__}")


@functools.lru_cache(maxsize=1)
def names_of_kinds() -> frozenset[str]:
    """The names of all classes with a K-shot form, and of those that they are derived from."""
    classes = {ancestor.__name__ for kind in _CONVERSIONS if isinstance(kind, type) for ancestor in kind.__mro__}
    named = {kind.rsplit(".", 1)[-1] for kind in _CONVERSIONS if isinstance(kind, str)}
    return frozenset(classes | named) - {"Module", "object"}
