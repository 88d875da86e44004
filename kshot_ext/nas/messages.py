"""Text for people: whatever a name holds, a message is one line that any terminal shows."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kshot_ext._native import notices

_ASCII_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def visible(text: str) -> str:
    """The text with what is not printable as backslash escapes: control characters, bytes that are no UTF-8.

    Example:
        >>> print(visible("été\\n\\x1b[31m"))
        été\\n\\x1b[31m
    """
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def in_shell(path: object) -> str:
    """A path as a word of a shell's command; one with bytes that are not printable as ``$'...'``, which bash, zsh and
    ksh read.

    Example:
        >>> in_shell("my run"), in_shell("a\\nb")
        ("'my run'", "$'a\\\\nb'")
    """
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    quoted = "".join(f"\\{letter}" if letter in "\\'" else letter for letter in text)
    return f"$'{''.join(letter if letter.isprintable() else _in_octal(letter) for letter in quoted)}'"


def one_line(error: object) -> str:
    """The message of an error without its line breaks, cut where it grows long."""
    text = visible(" ".join(str(error).split()))
    return text if len(text) <= 300 else f"{text[:300]}..."


def file_name(text: str, most: int = 80) -> str:
    """A text as part of a file's name on any system: letters, digits and ``.-_``, at most so many bytes.

    Example:
        >>> file_name("été [red]/x")
        'été-red-x'
    """
    plain = re.sub(r"[^\w.]+", "-", re.sub(r"[\ud800-\udfff]", "-", text)).strip("-.")
    return plain.encode()[:most].decode(errors="ignore") or "run"


def notice(text: str) -> None:
    """Say what the user should know of, while work goes on: see `kshot_ext._native.notices.tell`."""
    notices.tell(visible(text), logging.WARNING)


def _escaped(letter: str) -> str:
    if letter in _ASCII_ESCAPES:
        return _ASCII_ESCAPES[letter]
    if "\udc80" <= letter <= "\udcff":  # how Python keeps a byte of a file name that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def _in_octal(letter: str) -> str:
    if letter in _ASCII_ESCAPES:
        return _ASCII_ESCAPES[letter]
    return "".join(f"\\{byte:03o}" for byte in letter.encode("utf-8", "surrogateescape"))


@contextmanager
def noting(text: Callable[[], str]) -> Iterator[None]:
    """What is raised inside the context, by whomever, is shown by Python with a line more; before Python 3.11, which
    cannot, the line is told.

    Args:
        text: gives the line, when it is needed.
    """
    try:
        yield
    except BaseException as error:
        if (line := visible(text())) not in str(error):
            if sys.version_info >= (3, 11):
                error.add_note(line)
            else:
                notice(line)
        raise
