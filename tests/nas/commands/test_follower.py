"""What a process that helps another says when that one is gone; real processes are in test_data_parallel.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kshot_ext.distributed import LostProcessError
from kshot_ext.nas.commands.frame import EXIT_ERROR
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.tables import as_table
from kshot_ext.nas.training import data_parallel
from kshot_ext.nas.training.data_parallel import DataParallel

GONE = "another process of this training has ended"


class LosesItsLeader(DataParallel):
    """The second process, whose leader sends some texts and then is gone."""

    def __init__(self, *texts: object) -> None:
        super().__init__()
        self.rank = 1
        self.texts = [json.dumps(text) for text in texts]

    def from_leader(self, text: str) -> str:
        if not self.texts:
            raise LostProcessError(GONE)
        return self.texts.pop(0)

    def follow(self, trainer: object) -> None:
        raise LostProcessError(GONE)


@pytest.mark.parametrize(
    ("texts", "resume", "way"),
    [
        (("settings", "/runs/my run"), None, "go on with: kshot-ext search --resume '/runs/my run'"),
        (("settings",), None, "what was written is said by the first process"),
        ((), None, "what was written is said by the first process"),
        ((), "/runs/old", "go on with: kshot-ext search --resume /runs/old"),
    ],
)
def test_a_process_that_lost_its_leader_says_what_is_true(
    texts: tuple[str, ...],
    resume: str | None,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = as_table(RunSettings(max_images=100, channels=2))
    processes = LosesItsLeader(*(settings if text == "settings" else text for text in texts))
    monkeypatch.setattr(DataParallel, "from_environment", lambda device: processes)
    assert search_command({}, None, None if resume is None else Path(resume)) == EXIT_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {GONE}; ")
    assert line.endswith(way)
    assert "nothing was written" not in line


def test_processes_that_do_not_connect_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("connection refused\nby the peer")

    monkeypatch.setattr(data_parallel, "started_processes", lambda: 2)
    monkeypatch.setattr(data_parallel.dist, "init_process_group", fail)
    assert search_command({}, None, None) == EXIT_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert "the processes of this training do not connect (connection refused by the peer)" in line
