"""Messages reach the log of a program that keeps one, and else standard error; never both."""

import io
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from kshot_ext._native import notices


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Messages of a program that has set up `logging` for ours, which it has not yet: no handler hears them."""
    messages: list[str] = []
    notices.LOGGER.propagate = False  # pytest listens at the root
    yield messages
    notices.LOGGER.propagate = True


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
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = [logging.NullHandler(), *([] if handler_level is None else [Listener(log, handler_level)])]
    monkeypatch.setattr(notices.LOGGER, "handlers", handlers)
    monkeypatch.setattr(notices.LOGGER, "level", logger_level)
    notices.LOGGER.manager._clear_cache()  # of which levels are enabled
    notices.tell("100 % done")
    assert log == (["100 % done"] if heard else [])
    assert capsys.readouterr().err == ("" if heard else "kshot_ext: 100 % done\n")


def test_a_handler_of_the_root_hears(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    notices.tell("at the root", logging.WARNING)
    assert caplog.messages == ["at the root"]
    assert capsys.readouterr().err == ""


def test_what_keeps_messages_unnoticed_is_no_listener(
    log: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Kept(Listener, notices.Unnoticed):
        pass

    monkeypatch.setattr(notices.LOGGER, "handlers", [Kept(log)])
    notices.tell("both", logging.WARNING)
    assert log == ["both"]
    assert capsys.readouterr().err == "kshot_ext: both\n"


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
