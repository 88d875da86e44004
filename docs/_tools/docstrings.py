"""Docstrings as mkdocstrings reads them: an extension of griffe, which reads the sources and imports nothing.

The project's docstrings are Google's, with three habits of their own: an `Example:` of doctest lines, several arguments
that share an entry, and Sphinx' roles.
"""

from __future__ import annotations

import re

from griffe import Extension

ROLE = re.compile(r":\w+:`~?([^`]+)`")
DOUBLE = re.compile(r"``([^`]+)``")
SHARED = re.compile(r"^    (\w+(?:, \w+)+): (.*(?:\n        .*)*)", re.MULTILINE)
ARGUMENTS = re.compile(r"(?<=\n)Args:\n(?:(?: {4}.*)?\n)+")


def as_google(text: str) -> str:
    """A docstring in the form that griffe knows.

    Args:
        text: the docstring, without the indentation of its place.
    """
    text = ARGUMENTS.sub(lambda section: SHARED.sub(_one_each, section[0]), text + "\n")
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return ROLE.sub(r"`\1`", DOUBLE.sub(r"`\1`", text)).rstrip("\n")


def _one_each(entry: re.Match[str]) -> str:
    return "\n".join(f"    {name}: {entry[2]}" for name in entry[1].split(", "))


class HouseDocstrings(Extension):
    """Puts every docstring into that form before it is parsed."""

    def on_object(self, *, obj, **_) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_google(obj.docstring.value)
