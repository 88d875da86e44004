"""The one door to the libraries of the extras."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtraError(ImportError):
    """A library of an extra is not installed."""


def require(module: str, extra: str = "search") -> ModuleType:
    """Import a module of an extra on first use.

    Args:
        module: dotted name, e.g. ``"pymoo.core"``.
        extra: the extra whose installation brings it.

    Returns:
        The module itself (the last part of the dotted name).

    Raises:
        MissingExtraError: if its library is not installed; the message names the cure.

    Example:
        >>> require("json").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name != library:
            raise
        raise MissingExtraError(
            f"{library} is needed here and not installed; run: pip install 'kshot_ext[{extra}]'"
        ) from error
