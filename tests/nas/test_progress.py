from __future__ import annotations

import io

from rich.console import Console

from kshot_ext.nas.progress import ConsoleProgress


def _show(*, terminal: bool, width: int = 120) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width)
    with ConsoleProgress(console) as progress:
        progress.start("train", total=3, done=1)
        progress.move(1.5)
        progress.finish_step(2, {"loss": 0.25, "best_accuracy": 1})
        progress.finish_step(3, {"loss": 0.125, "best_accuracy": 1})
    return console.file.getvalue()


def test_without_a_terminal_each_step_is_one_line() -> None:
    assert _show(terminal=False).splitlines() == [
        "train 2/3: loss 0.250, best accuracy 1.000",
        "train 3/3: loss 0.125, best accuracy 1.000",
    ]


def test_on_a_terminal_there_is_a_bar_with_the_time_left() -> None:
    shown = _show(terminal=True)
    assert "3/3" in shown
    assert "left" in shown
    assert "loss 0.125" in shown


def test_a_narrow_terminal_still_shows_the_times() -> None:
    frames = [line for line in _show(terminal=True, width=64).splitlines() if "train" in line]
    assert "0:00:00" in frames[-1]
