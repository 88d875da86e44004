"""`kshot-ext rank` with workers that evaluate."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from kshot_ext.nas.api import start
from kshot_ext.nas.api.start import Resources
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.rank import rank_command


class _Workers:
    """A `RayMap` whose worker, like a real one, keeps a function for as long as it is the same object."""

    def __init__(self, workers: int, address: str | None) -> None:
        self.asked_for = workers, address
        self.functions: list[object] = []
        self.kept: bytes = b""
        self.closed = False

    def __enter__(self) -> _Workers:
        made.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def __call__(self, function: object, arguments: Collection) -> Iterator[object]:
        if not self.functions or function is not self.functions[-1]:
            self.functions.append(function)
            self.kept = pickle.dumps(function)
        yield from map(pickle.loads(self.kept), arguments)


made: list[_Workers] = []


def test_workers_find_what_one_process_finds(
    config: Path, table: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(start, "RayMap", _Workers)
    options = {"truth": str(table), "out": str(tmp_path / "run")}
    assert rank_command(options, config, None, Resources(ray_address="head:1")) == EXIT_ERROR
    assert "ray_address: expected workers too" in capsys.readouterr().err
    assert rank_command(options, config, None, Resources(3, "head:1")) == EXIT_DONE
    (workers,) = made
    assert workers.asked_for == (3, "head:1")
    assert workers.closed
    assert len(workers.functions) == 2  # one for each point of training
    assert (tmp_path / "run" / "evaluated.json").read_text() == (finished / "evaluated.json").read_text()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
