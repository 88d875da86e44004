"""Keyword arguments of a program as settings: what is an object there has a name or a table in a settings file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot_ext.nas.datasets import ImageSource, open_source
from kshot_ext.nas.methods.method import Method
from kshot_ext.nas.own_classes import give
from kshot_ext.nas.runs.settings import SupernetSettings
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.tables import as_table

Settings = SupernetSettings | Mapping[str, Any] | str | Path
"""What a program may give as settings: the object, its table, or the path of a TOML file."""

_LISTS = ("widths", "bits")


def as_config(settings: Settings | None) -> Path | Mapping[str, Any] | None:
    """Settings as a file or a table of them.

    Raises:
        TypeError: if they are something else.
    """
    if settings is None or isinstance(settings, Mapping):
        return settings
    if isinstance(settings, (str, Path)):
        return Path(settings)
    if isinstance(settings, SupernetSettings):
        return as_table(settings)
    raise TypeError(f"settings: expected RunSettings, a table or a path of a TOML file, got {type(settings).__name__}")


def as_options(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, as a settings file has them; those that are None are left out.

    Example:
        >>> as_options({"shots": 8, "widths": (0.5, 1), "truth": Path("table.json"), "seed": None})
        {'shots': 8, 'widths': '0.5,1', 'truth': 'table.json'}
    """
    return {name: _as_option(name, value) for name, value in keywords.items() if value is not None}


def own_name(thing: Any) -> Any:
    """The name by which settings know a class or an object of the user's own; what is a name already stays one."""
    return give(thing) if isinstance(thing, (SearchSpace, Method, type)) else thing


def images_of(data: Any) -> tuple[str | None, ImageSource | None]:
    """What settings say of data, and the images of what no text can name.

    Args:
        data: None, a path, an `ImageSource`, or whatever else `open_source` takes.

    Raises:
        DataError: if it cannot be used.
    """
    if data is None or isinstance(data, (str, Path)):
        return (None if data is None else str(data)), None
    source = data if isinstance(data, ImageSource) else open_source(data)
    return f"python:{source.name}", source


def own_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The space and the method that were asked for by name."""
    method = options.get("method")
    return {"space": options.get("space"), "method": method["name"] if isinstance(method, Mapping) else method}


def _as_option(name: str, value: Any) -> Any:
    if name in ("space", "method"):
        value = own_name(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = as_table(value)
    if isinstance(value, Mapping):
        value = {
            inner: own_name(item) if inner == "name" else item for inner, item in value.items() if item is not None
        }
    if name in _LISTS and isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value
