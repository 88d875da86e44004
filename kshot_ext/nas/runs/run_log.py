"""What a run said, and when: ``log.txt`` in its folder."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TextIO

from kshot_ext._native import notices
from kshot_ext.nas.files import WriteError, append_line
from kshot_ext.nas.messages import notice, visible

LOG = "log.txt"


class RunLog:
    """Adds all messages and warnings to a run's log, one line each; use it as a context manager.

    What is said before the run has a folder is kept until then. A log that cannot be written is given up, which is
    said: it is no reason to end a run.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._path: Path | None = None
        self._given_up = False
        self._resources = ExitStack()

    def __enter__(self) -> RunLog:
        self._resources.enter_context(notices.kept_by(self._keep))
        self._resources.enter_context(warnings.catch_warnings())
        show = warnings.showwarning

        def show_and_keep(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            self._keep(f"{category.__name__}: {message}", logging.WARNING)
            if not notices.is_silent():
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_and_keep
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()
        if kind is not None:
            self._keep(f"ended by {kind.__name__}: {error}".removesuffix(": "), logging.ERROR)

    def write_to(self, folder: Path) -> None:
        """Add to the log in this folder what has been said, and what will be."""
        self._path = folder / LOG
        lines, self._lines = self._lines, []
        for line in lines:
            self._add(line)

    def _keep(self, text: str, level: int) -> None:
        self._add(f"{time.strftime('%Y-%m-%d %H:%M:%S%z')} {logging.getLevelName(level)} {visible(text)}")

    def _add(self, line: str) -> None:
        if self._given_up:
            return
        if self._path is None:
            self._lines.append(line)
            return
        try:
            append_line(self._path, line, sync=False)
        except WriteError as error:
            self._given_up = True
            if self._path.parent.exists():  # without its folder the run ends, and says that
                notice(f"{error}; the run goes on without its log")
