"""The one door to the libraries of the extras."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
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


def lacking_by_extra() -> dict[str, list[str]]:
    """The distributions of each extra that are not installed; nothing where kshot_ext is not installed itself.

    Example:
        >>> lacking_by_extra().get("search", [])
        []
    """
    try:
        own = metadata.metadata("kshot_ext")
    except metadata.PackageNotFoundError:
        return {}
    lacking: dict[str, list[str]] = {name: [] for name in own.get_all("Provides-Extra") or ()}
    for requirement in own.get_all("Requires-Dist") or ():
        # What has further conditions, or is another extra of this package, says nothing by itself.
        parts = re.fullmatch(r"([\w.-]+)[^;\[]*; extra == [\"']([\w-]+)[\"']", requirement)
        if parts is not None and not _is_installed(parts[1]):
            lacking[parts[2]].append(parts[1])
    return lacking


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
