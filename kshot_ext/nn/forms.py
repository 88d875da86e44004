"""A plain layer's K-shot form, a K-shot layer's plain form, and how a layer takes on the other one.

A layer changes its class in its place, as lazy and parametrised modules of PyTorch do. So whoever holds it (a parent, a
list, a hook) holds the changed one, and its hooks, mode and attributes stay.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conversions import conversion_of

_STATE_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def kshot_form(layer: nn.Module, num_shots: int) -> KShotModule:
    """A K-shot layer with the geometry of a plain one, whose class is registered; its tensors mean nothing."""
    conversion = conversion_of(type(layer))
    assert conversion is not None, "the class is registered"
    form = conversion.to_kshot(layer, num_shots)
    if plain_class(form) is not type(layer):
        form.plain = type(layer)
    return form


def parts_read_by(layer: nn.Module) -> list[nn.Module]:
    """The parts of a plain layer whose weights its forward, and so its K-shot form, reads itself.

    Raises:
        ValueError: saying why the layer has no K-shot form.
    """
    parts = (layer._modules.get(name) for name in kshot_form(layer, 1).parts_read)
    return [part for part in parts if part is not None]


def plain_form(layer: KShotModule) -> nn.Module:
    """A plain layer with the geometry of a K-shot one that has a `plain_class`; its tensors mean nothing."""
    kind = plain_class(layer)
    conversion = None if kind is None else conversion_of(kind)
    assert conversion is not None, "it has a plain class"
    return conversion.to_plain(layer)


def plain_class(layer: KShotModule) -> type[nn.Module] | None:
    """The class that a K-shot layer is the K-shot form of: what it came from, or what its own class says.

    None for a subclass that does not say so, since it may mean something else by its weight, and if nothing registered
    can make it plain.
    """
    own_class = type(layer).__base__ if parametrize.is_parametrized(layer) else type(layer)
    kind = vars(layer).get("plain") or vars(own_class).get("plain")
    return kind if kind is not None and conversion_of(kind) is not None else None


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
