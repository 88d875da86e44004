"""Dataclasses of settings as tables of a TOML file, with every name and type checked."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import read_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

_TOML = "tomllib" if sys.version_info >= (3, 11) else "tomli"
_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class SettingsError(ValueError):
    """A setting has an unknown name or an unusable value; the message says where, and what is legal."""


def override(settings: Settings, changes: Mapping[str, Any], origin: str, prefix: str = "") -> Settings:
    """Return settings with some values replaced.

    Args:
        settings: a frozen dataclass whose fields are scalars or such dataclasses.
        changes: new values by field name; for a field that is a dataclass, a table of its fields.
        origin: where the changes come from, for messages.
        prefix: path of ``settings`` in the whole, such as ``"training."``, for messages.

    Raises:
        SettingsError: if a name is unknown, or a value has the wrong type or is refused by the dataclass.
    """
    hints = get_type_hints(type(settings))
    names = [field.name for field in dataclasses.fields(settings)]
    values = {}
    for name, value in changes.items():
        if name not in names:
            raise SettingsError(f"{origin}: unknown setting {prefix}{name}; expected {', '.join(names)}")
        if not dataclasses.is_dataclass(hints[name]):
            values[name] = _checked(value, hints[name], f"{origin}: {prefix}{name}")
        elif isinstance(value, Mapping):
            values[name] = override(getattr(settings, name), value, origin, f"{prefix}{name}.")
        else:
            raise SettingsError(f"{origin}: {prefix}{name}: expected a table, got {value!r}")
    try:
        return dataclasses.replace(settings, **values)
    except ValueError as error:
        raise SettingsError(f"{origin}: {prefix}{error}") from error


def type_names(hint: Any) -> str:
    """The types of a setting, for people; that it may be left out is not among them.

    Example:
        >>> type_names(int | float | None)
        'a whole number or a number'
    """
    return " or ".join(_TYPE_NAMES[kind] for kind in _legal_types(hint) if kind is not NoneType)


def _legal_types(hint: Any) -> tuple[type, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _checked(value: Any, hint: Any, place: str) -> Any:
    legal = _legal_types(hint)
    if type(value) is int and not -(2**63) <= value < 2**63:  # nor can it be kept, or be made a float
        raise SettingsError(f"{place}: expected a number that 64 bits hold, as all whole numbers of TOML, got more")
    if type(value) in legal:
        return value
    if type(value) is int and float in legal:
        return float(value)
    raise SettingsError(f"{place}: expected {type_names(hint)}, got {value!r}")


def as_table(settings: Any) -> dict[str, Any]:
    """Return settings as nested dicts, leaving out what is None."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        name: as_table(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if value is not None
    }


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the scalars of nested dicts under dotted names.

    Example:
        >>> flatten({"seed": 0, "training": {"epochs": 3}})
        {'seed': 0, 'training.epochs': 3}
    """
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat


def read_toml(path: Path, *, pipes: bool = False) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: the file.
        pipes: whether it may be a pipe, such as a shell's ``<(...)``.

    Raises:
        SettingsError: if there is no such file, or it is no TOML.
    """
    try:
        table: dict[str, Any] = require(_TOML).loads(read_text(path, pipes=pipes))
        return table
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SettingsError(f"{path}: not a TOML file ({error})") from error
    except RecursionError:
        raise SettingsError(f"{path}: not a TOML file (brackets are nested too deeply)") from None


def to_toml(table: Mapping[str, Any]) -> str:
    """Write scalars, then one level of tables, as TOML.

    Example:
        >>> print(to_toml({"space": "nas-bench-macro", "training": {"epochs": 3}}), end="")
        space = "nas-bench-macro"
        <BLANKLINE>
        [training]
        epochs = 3
    """
    scalars = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{name} = {_to_toml_value(value)}" for name, value in scalars.items()]
    for name, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *to_toml(value).splitlines()]
    return "\n".join(lines) + "\n"


def _to_toml_value(value: str | int | float | bool) -> str:
    # For text, JSON's form is TOML's, except that TOML wants the delete character escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
