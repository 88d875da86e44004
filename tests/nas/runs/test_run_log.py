"""`log.txt`: what a run says, with times, also what it said before it had a folder and how it ended."""

from __future__ import annotations

import logging
import os
import re
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from kshot_ext._native import notices
from kshot_ext.nas.messages import notice
from kshot_ext.nas.runs.run_log import LOG, RunLog


def lines(folder: Path) -> list[str]:
    """The lines of a log, without their times."""
    times = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} "
    found = (folder / LOG).read_text().splitlines()
    assert all(re.match(times, line) for line in found), found
    return [re.sub(times, "", line, count=1) for line in found]


def test_it_has_what_is_said_before_and_after_there_is_a_folder(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    notices.log("before the run")
    with RunLog() as log:
        notices.log("data: one image is left out")
        warnings.warn("take care", UserWarning, stacklevel=1)
        assert list(tmp_path.iterdir()) == []
        log.write_to(tmp_path)
        notice("the checkpoint\nis gone")
    notices.log("after the run")
    expected = ["INFO data: one image is left out", "WARNING UserWarning: take care"]
    assert lines(tmp_path) == [*expected, "WARNING the checkpoint\\nis gone"]
    assert [str(warning.message) for warning in recwarn] == ["take care"]  # as if there were no log


def test_a_resumed_run_adds_to_it_and_tells_how_it_ended(tmp_path: Path) -> None:
    for error in (OSError("the disk is full"), KeyboardInterrupt()):
        with suppress(OSError, KeyboardInterrupt), RunLog() as log:
            log.write_to(tmp_path)
            raise error
    assert lines(tmp_path) == ["ERROR ended by OSError: the disk is full", "ERROR ended by KeyboardInterrupt"]


def test_messages_reach_the_logger_as_well_and_at_its_level_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunLog() as log, caplog.at_level(logging.WARNING, "kshot_ext"):
        log.write_to(tmp_path)
        notices.log("an epoch")
        notices.log("a warning", logging.WARNING)
    assert caplog.messages == ["a warning"]
    assert lines(tmp_path) == ["INFO an epoch", "WARNING a warning"]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_left_alone_and_the_run_goes_on(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "precious"
    target.write_text("content")
    place = tmp_path / LOG
    {"folder": place.mkdir, "link": lambda: place.symlink_to(target), "pipe": lambda: os.mkfifo(place)}[kind]()
    with RunLog() as log:
        log.write_to(tmp_path)
        notices.log("one")
        notices.log("two")
    assert target.read_text() == "content"
    assert len(caplog.messages) == 1
    assert "log.txt: cannot be written" in caplog.messages[0]
    assert "the run goes on without its log" in caplog.messages[0]
