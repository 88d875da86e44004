"""Settings as a commented TOML file: each with its default, and what it means, by its dataclass's docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, get_type_hints

from kshot_ext.nas.tables import to_toml, type_names

_WIDTH = 110
_ARGUMENT = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")
_NONE = re.compile(r"\bNone (?=for|to)")
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def commented_toml(settings: Any) -> str:
    r"""A file that holds settings, each below a comment that says what it means.

    What is not set is a comment, too. So the file says all that can be set, and reading it gives the same settings.

    Args:
        settings: a dataclass of scalars, and of dataclasses of scalars, which become tables.

    Example:
        >>> from kshot_ext.nas.networks.evaluation import EvaluationSettings
        >>> print(*commented_toml(EvaluationSettings()).splitlines()[-3:], sep="\n")
        # most held-out images to score a network on, drawn at random, the same for all networks; leave it out for
        # all.
        # images = <a whole number>
    """
    lines = [*_scalars(settings)]
    for name, table in _fields(settings):
        if dataclasses.is_dataclass(table):
            lines += ["", "", *_comment(about(type(table))), f"[{name}]", *_scalars(table)]
    return "\n".join(lines).strip("\n") + "\n"


def about(kind: type) -> str:
    """What a table of settings is for, by the first line of its dataclass's docstring.

    Example:
        >>> from kshot_ext.nas.networks.evaluation import EvaluationSettings
        >>> about(EvaluationSettings)
        "How networks are scored with a supernet's weights."
    """
    return _plain((inspect.getdoc(kind) or "").partition("\n")[0])


def meanings(kind: type) -> dict[str, str]:
    """What each field of a dataclass means, by the ``Args`` of its docstring and of those of its base classes.

    Example:
        >>> from kshot_ext.nas.searchers.generations import SearchSettings
        >>> meanings(SearchSettings)["population"]
        'architectures per generation, at least 2.'
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= _arguments(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
    return {field.name: found[field.name] for field in dataclasses.fields(kind) if field.name in found}


def _scalars(settings: Any) -> Iterator[str]:
    told, hints = meanings(type(settings)), get_type_hints(type(settings))
    for name, value in _fields(settings):
        if dataclasses.is_dataclass(value):
            continue
        yield ""
        yield from _comment(told.get(name, ""))
        unset = f"# {name} = <{type_names(hints[name])}>"
        yield unset if value is None else to_toml({name: value}).rstrip("\n")


def _fields(settings: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(settings):
        yield field.name, getattr(settings, field.name)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _arguments(text: str) -> dict[str, str]:
    """The entries of a docstring's ``Args``; one that is for several names is the meaning of each."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.partition("\nArgs:\n")[2].splitlines():
        if line and not line.startswith("    "):
            break
        if entry := _ARGUMENT.match(line):
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: _plain(meaning.strip()) for name, meaning in found.items()}


def _plain(text: str) -> str:
    """A docstring's text without its marks, in the words of a file: None is what is left out there."""
    return _NONE.sub("leave it out ", _ROLE.sub(r"\1", text).replace("`", ""))
