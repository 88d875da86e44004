"""Containers whose layers run as chains, and how a container takes on that form.

A container changes its class in its place, as layers do (`nn/forms.py`), and its parts stay what they are: names, hooks
and slices hold.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, ClassVar

from torch import nn

from kshot_ext.nn.deferred import Value
from kshot_ext.nn.memoised import memoised


class TakesValues(nn.Module):
    """Mixin of modules whose forward is `run` of a tensor, finished."""

    def run(self, value: Value) -> Value:
        """What the module makes of a value that may wait (`nn/deferred.py`); the result may wait, too."""
        raise NotImplementedError

    def is_plain_to_see(self) -> bool:
        """Whether it does nothing but call its parts and write to their values, as it is now."""
        return True


class Fused(TakesValues):
    """Mixin of the classes that `fused_kind` gives; it comes before the plain class in the order of methods."""

    plain_kind: ClassVar[type[Any]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = super().__reduce_ex__(protocol)
        rebuild, (_, *arguments), *state = reduced
        return _rebuilt, (type(self).__mro__[1], type(self).plain_kind, rebuild, *arguments), *state


@memoised(None)
def fused_kind(mixin: type[Fused], kind: type[nn.Module]) -> type[Any]:
    """A class like `kind` that fuses. It has the same name: what a model prints stays as it was."""
    members: dict[str, Any] = {
        "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "plain_kind": kind,
        "forward": _with_signature_of(kind.forward, mixin.forward),
    }  # fmt: skip
    return type(kind.__name__, (mixin, kind), members)


def _with_signature_of(plain: Any, forward: Any) -> FunctionType:
    """A forward by itself, which shows the plain one's arguments to `inspect`, and so to tracers and trainers."""
    own = FunctionType(forward.__code__, forward.__globals__, plain.__name__, forward.__defaults__, forward.__closure__)
    vars(own)["__wrapped__"] = plain
    return own


def plain_kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or the one that it had before it was fused."""
    return type(module).plain_kind if isinstance(module, Fused) else type(module)


def unfuse_modules(model: nn.Module) -> None:
    """Give all containers of `model` their plain classes again, in place."""
    for module in model.modules():
        if isinstance(module, Fused):
            module.__class__ = _unfused(type(module))


def _unfused(kind: type[Any]) -> type[Any]:
    """The plain class of a fused one, or of one that was made of it since, as parametrizations do."""
    if not issubclass(kind, Fused):
        return kind
    if "plain_kind" in vars(kind):
        return kind.plain_kind
    members = {name: each for name, each in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    make: Any = type(kind)
    unfused: type[Any] = make(kind.__name__, tuple(map(_unfused, kind.__bases__)), members)
    return unfused


def _rebuilt(mixin: type[Fused], kind: type[nn.Module], rebuild: Any, *arguments: Any) -> nn.Module:
    """What copies and pickles of a fused container are made by: no module has its class under a name."""
    rebuilt: nn.Module = rebuild(fused_kind(mixin, kind), *arguments)
    return rebuilt
