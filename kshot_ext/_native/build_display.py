"""What a user sees of a build, which takes a minute: a line on standard error, or what `shown_by` puts in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from kshot_ext._native import notices


class BuildDisplay(Protocol):
    """Shows a build."""

    def start(self, text: str, files: int) -> None:
        """It begins; `text` says what is built and why, and about how long that takes."""

    def move(self, done: int) -> None:
        """So many of the files are compiled."""

    def finish(self, outcome: str) -> None:
        """It has ended; `outcome` says how, and how long it took."""


class LineDisplay:
    """One line; on a terminal it counts the files. In the log of a program that keeps one it is two messages."""

    def start(self, text: str, files: int) -> None:
        self._text, self._files, self._count = text, files, ""
        self._printed = notices.is_printed()
        notices.log(text)
        self._write(f"kshot_ext: {text} ... ")
        self.move(0)

    def move(self, done: int) -> None:
        if notices.is_terminal():
            back, self._count = "\b" * len(self._count), f"{done} of {self._files} files, "
            self._write(back + self._count)

    def finish(self, outcome: str) -> None:
        notices.log(f"{self._text}: {outcome}")
        self._write(f"{outcome}\n")

    def _write(self, text: str) -> None:
        if self._printed:
            notices.write(text)


_display: BuildDisplay = LineDisplay()


@contextmanager
def shown_by(display: BuildDisplay) -> Iterator[None]:
    """Let builds inside the block be shown in another way."""
    global _display
    before, _display = _display, display
    try:
        yield
    finally:
        _display = before


def display() -> BuildDisplay:
    """What shows a build that begins now."""
    return _display
