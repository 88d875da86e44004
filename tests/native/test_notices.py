"""Messages reach the log of a program that keeps one, and else standard error; never both."""

import io
import logging
import os
import sys

import pytest

from kshot_ext._native import notices


def listen(monkeypatch: pytest.MonkeyPatch, *handlers: logging.Handler, level: int = logging.NOTSET) -> None:
    """A program that listens by these handlers alone; called in a test, as pytest listens, too, from its beginning."""
    monkeypatch.setattr(notices.LOGGER, "propagate", False)
    monkeypatch.setattr(notices.LOGGER, "handlers", [logging.NullHandler(), *handlers])
    monkeypatch.setattr(notices.LOGGER, "level", level)
    notices.LOGGER.manager._clear_cache()  # of which levels are enabled


class Listener(logging.Handler):
    def __init__(self, messages: list[str], level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize(
    ("handler_level", "logger_level", "heard"),
    [
        (None, logging.INFO, False),
        (logging.INFO, logging.INFO, True),
        (logging.WARNING, logging.INFO, False),
        (logging.INFO, logging.WARNING, False),
    ],
)
def test_a_message_is_logged_or_printed(
    handler_level: int | None,
    logger_level: int,
    heard: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log: list[str] = []
    listen(monkeypatch, *([] if handler_level is None else [Listener(log, handler_level)]), level=logger_level)
    notices.tell("100 % done")
    assert log == (["100 % done"] if heard else [])
    assert capsys.readouterr().err == ("" if heard else "kshot_ext: 100 % done\n")


def test_a_handler_of_the_root_hears(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    notices.tell("at the root", logging.WARNING)
    assert caplog.messages == ["at the root"]
    assert capsys.readouterr().err == ""


def test_who_keeps_messages_gets_all_and_is_no_listener(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listen(monkeypatch)
    log: list[str] = []
    with notices.kept_by(lambda text, level: log.append(f"{level}: {text}")):
        notices.log("kept only")
        notices.tell("told", logging.WARNING)
    notices.log("nobody's")
    assert log == ["20: kept only", "30: told"]
    assert capsys.readouterr().err == "kshot_ext: told\n"


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_command_prints_all_or_nothing(
    wanted: bool, heard: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log: list[str] = []
    kept: list[str] = []
    listen(monkeypatch, *([Listener(log)] if heard else []))
    with notices.kept_by(lambda text, level: kept.append(text)), notices.printing(wanted):
        assert notices.is_silent() != wanted
        notices.tell("told", logging.WARNING)
    assert not notices.is_silent()
    assert (kept, log) == (["told"], ["told"] if heard else [])
    assert capsys.readouterr().err == ("kshot_ext: told\n" if wanted else "")


@pytest.mark.parametrize("stderr", [None, "closed", "broken"])
def test_lines_for_the_user_may_go_nowhere(stderr: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = None
    if stderr == "closed":
        stream = io.StringIO()
        stream.close()
    elif stderr == "broken":
        reader, writer = os.pipe()
        os.close(reader)
        stream = io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)
    monkeypatch.setattr(sys, "stderr", stream)
    notices.write("building")
