"""What is seen of a build."""

import io
import logging
import sys

import pytest

from kshot_ext._native.build_display import LineDisplay


def show(display: LineDisplay) -> None:
    display.start("building (about 9 s)", 41)
    display.move(7)
    display.move(12)
    display.finish("done in 8.0 s")


def test_elsewhere_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(LineDisplay())
    assert capsys.readouterr().err == "kshot_ext: building (about 9 s) ... done in 8.0 s\n"


def test_on_a_terminal_the_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show(LineDisplay())
    seen: list[str] = []
    for letter in terminal.getvalue():
        seen = seen[:-1] if letter == "\b" else [*seen, letter]
    assert "".join(seen) == "kshot_ext: building (about 9 s) ... 12 of 41 files, done in 8.0 s\n"
    assert "7 of 41 files" in terminal.getvalue()


def test_in_a_log_it_is_two_messages_and_no_line(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "kshot_ext"):
        show(LineDisplay())
    assert caplog.messages == ["building (about 9 s)", "building (about 9 s): done in 8.0 s"]
    assert capsys.readouterr().err == ""
