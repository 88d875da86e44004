"""Which layers a user wants converted: by patterns of their names, or by a function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from kshot_ext.nn.conversions import conversion_of
from kshot_ext.nn.forms import parts_read_by

Selection = str | Iterable[str] | Callable[[str, nn.Module], bool]


def left_by_choice(model: nn.Module, include: Selection | None, exclude: Selection | None) -> dict[nn.Module, str]:
    """The modules of `model` that `include` does not select, or `exclude` does, each with the reason.

    Raises:
        TypeError: if one of the two is neither patterns nor a function.
        ValueError: naming a pattern that fits no module.
    """
    reasons: dict[nn.Module, str] = {}
    if include is not None:
        selected = _selected(model, "include", include)
        reasons.update((module, "include does not name it") for module in model.modules() if module not in selected)
    if exclude is not None:
        named = _selected(model, "exclude", exclude)
        reasons.update(_left_with(named))
        reasons.update(dict.fromkeys(named, "exclude names it"))
    return reasons


def _left_with(layers: Iterable[nn.Module]) -> dict[nn.Module, str]:
    """The parts whose weights layers that are left read themselves, as an attention does: they stay plain, too."""
    reasons: dict[nn.Module, str] = {}
    for layer in layers:
        if layer._modules and conversion_of(type(layer)) is not None:
            with contextlib.suppress(ValueError):  # a layer without a K-shot form
                reason = f"exclude names the {type(layer).__name__} that reads its weight"
                reasons.update(dict.fromkeys(parts_read_by(layer), reason))
    return reasons


def _selected(model: nn.Module, argument: str, selection: Selection) -> set[nn.Module]:
    names = list(model.named_modules(remove_duplicate=False))
    if not isinstance(selection, str) and callable(selection):
        return {module for name, module in names if selection(name, module)}
    patterns = [selection] if isinstance(selection, str) else None
    if patterns is None and isinstance(selection, Iterable):
        patterns = list(selection)
    if patterns is None or not all(isinstance(each, str) for each in patterns):
        raise TypeError(f"{argument} must be a pattern, patterns or a function of name and module, got {selection!r}")
    found = {pattern: {module for name, module in names if _fits(name, pattern)} for pattern in patterns}
    for pattern, modules in found.items():
        if not modules:
            raise ValueError(f"{argument}: no module of {type(model).__name__} has a name like {pattern!r}")
    return set().union(*found.values())


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern fits a module's name, or that of a module which it is inside of."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts)))
