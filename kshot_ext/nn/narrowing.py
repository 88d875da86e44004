"""Layers of which a network uses a part: how one is fixed at the widths of a narrower plain layer, and made plain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


_Layer = TypeVar("_Layer", bound=nn.Module)


class Widths(NamedTuple):
    """Channels, or features, of a layer's input and output."""

    inputs: int
    outputs: int


class Narrowable(nn.Module):
    """Mixin of modules whose leading channels are a layer of their own, with the same tensors.

    Attributes:
        plain: the class of plain layers that a part of it is.
        widths: what it was fixed at by `narrowed`; None while every call chooses.
    """

    plain: ClassVar[type[nn.Module]]
    widths: Widths | None = None

    def narrowed(self, plain: Any) -> Self:
        """This layer with the channel counts of a plain one, for good; parameters and buffers are shared, not copied.

        Args:
            plain: a layer of the class `plain`; on the meta device it costs no memory.

        Raises:
            ValueError: if no part of this layer is like it.
        """
        if type(plain) is not self.plain:
            raise ValueError(
                f"a part of a {type(self).__name__} is a {self.plain.__name__}, got {type(plain).__name__}"
            )
        layer = copy.copy(self)  # a shallow copy shares the tables of parameters, buffers and parts themselves
        layer.fix_like(plain)
        return layer

    def fix_like(self, plain: Any) -> None:
        """Set `widths`, and what else a call chooses, to what a plain layer has, or say why it cannot be."""
        raise NotImplementedError

    def to_plain(self) -> nn.Module:
        """A plain layer with the values that a narrowed one uses, in tensors of its own; K-shot parts are merged."""
        raise NotImplementedError

    @property
    def fixed_widths(self) -> Widths:
        """`widths` of a layer that `narrowed` made."""
        assert self.widths is not None, "only a narrowed layer has a plain form"
        return self.widths

    def require_inputs(self, channels: int) -> None:
        """Refuse an input that the plain layer would refuse."""
        if self.widths is not None and channels != self.widths.inputs:
            raise ValueError(
                f"{type(self).__name__}: expected an input of {self.widths.inputs} channels, to which it was narrowed, "
                f"got {channels}"
            )


class Sliced(Narrowable):
    """Base of modules that keep their parameters in an inner layer, plain or K-shot: they read it knowing of copies."""

    def narrowed(self, plain: Any) -> Self:
        layer = super().narrowed(plain)
        layer._modules = {name: copy.copy(part) for name, part in self._modules.items()}  # for codes of their own
        return layer


def is_narrowed(layer: nn.Module) -> TypeGuard[Narrowable]:
    """Whether a layer is a part of a wider one, fixed by `narrowed`."""
    return isinstance(layer, Narrowable) and layer.widths is not None


def require_same(ours: object, plain: object, *names: str) -> None:
    """Refuse a plain layer that differs from ours in one of these attributes."""
    for name in names:
        if getattr(ours, name) != getattr(plain, name):
            raise ValueError(f"{name}: expected {getattr(ours, name)}, got {getattr(plain, name)}")


def require_at_most(most: Widths, plain: Widths) -> None:
    """Refuse a plain layer of more channels than there are."""
    if plain.inputs > most.inputs or plain.outputs > most.outputs:
        raise ValueError(f"expected at most {most.inputs} channels in and {most.outputs} out, got {tuple(plain)}")


@torch.no_grad()
def filled(layer: _Layer, values: Mapping[str, Tensor | None], like: Tensor | None, training: bool) -> _Layer:
    """A layer of the meta device with these values in its parameters and buffers, as tensors of its own."""
    for table in (layer._parameters, layer._buffers):
        for name, held in table.items():
            if held is None:
                continue
            given = values[name]
            assert given is not None, "a tensor for each that the layer has"
            value = given.detach().clone()
            trained = like is None or like.requires_grad
            cast("dict[str, Tensor | None]", table)[name] = (
                nn.Parameter(value, trained) if table is layer._parameters else value
            )
    return layer.train(training)


def swap_layers(model: nn.Module, swap: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """Replace, in place, each module for which `swap(name, module)` returns another one.

    A module is swapped once, however often it is used. The result may be a replacement itself.
    """
    swapped: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        replacement = swap(name, module)
        if replacement is not None:
            swapped[module] = replacement
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in swapped:
                module._modules[name] = swapped[child]
    return swapped.get(model, model)
