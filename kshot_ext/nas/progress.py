"""Progress on the console: bars with the time left on a terminal, one line per step elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from kshot_ext._native import notices
from kshot_ext.nas.extras import require

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def new_console(*, quiet: bool = False) -> Console:
    """A console on standard output, or one that shows nothing.

    Raises:
        MissingExtraError: if rich is not installed.
    """
    console: Console = require("rich.console").Console(quiet=quiet)
    return console


class ConsoleProgress:
    """Shows the stages of a job one below the other; use it as a context manager.

    Args:
        console: where to show them.

    Raises:
        MissingExtraError: if rich is not installed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        parts = require("rich.progress")
        cut = require("rich.table").Column(ratio=1, no_wrap=True)  # on a narrow terminal the note is cut, not the times
        self._bars: Progress = parts.Progress(
            parts.TextColumn("{task.description}", style="bold"),
            parts.BarColumn(bar_width=20),
            parts.TextColumn("{task.fields[position]}"),
            parts.TimeElapsedColumn(),
            parts.TextColumn("left"),
            parts.TimeRemainingColumn(),
            parts.TextColumn("{task.fields[note]}", style="dim", table_column=cut),
            console=console,
            expand=True,
            disable=not console.is_terminal,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._total = 0

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, title: str, total: int, done: int = 0) -> None:
        """Begin a stage of ``total`` steps, of which ``done`` are done."""
        self._title, self._total = title, total
        self._task = self._bars.add_task(title, total=total, completed=done, position="", note="")
        self.move(done)

    def move(self, position: float) -> None:
        """Show how far the stage is, in steps; a fraction is a part of a step."""
        if self._task is not None:
            text = f"{int(position)}/{self._total}"
            self._bars.update(self._task, completed=position, position=text)

    def tell(self, text: str) -> None:
        """Print a line above the stages, as it is, and log it."""
        notices.log(text)
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def finish_step(self, done: int, values: Mapping[str, float]) -> None:
        """Show the numbers of a step that has just ended."""
        note = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items())
        self.move(done)
        line = f"{self._title} {done}/{self._total}: {note}"
        notices.log(line)
        if self._console.is_terminal and self._task is not None:
            self._bars.update(self._task, note=note)
        else:
            self._console.print(line, soft_wrap=True)
