"""The whole command with a local Ray, of which a worker dies in the middle of the search."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kshot_ext.cli import app
from kshot_ext.nas.searchers.ray_map import RayMap

SETTINGS = """
rivals = 1
retrain_seeds = 1
shots = 2
channels = 2
max_images = 40
epochs = 1
[training]
batch_size = 8
warmup_epochs = 0
[search]
population = 2
generations = 2
[retrain]
epochs = 1
batch_size = 16
"""


def search(folder: Path, *options: str) -> dict:
    """What the command finds, without the time that it took and the identity of the run."""
    (folder / "settings.toml").write_text(SETTINGS)
    out = folder / "run"
    ended = CliRunner().invoke(app, ["search", "--config", str(folder / "settings.toml"), "--out", str(out), *options])
    assert ended.exit_code == 0, ended.output
    result = json.loads((out / "results.json").read_text())
    del result["run"]  # each has a name of its own
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {"result": without_times(result), "search": [r for r in records if r["stage"] == "search"]}


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if "seconds" not in key and key != "run"}
    return value


def test_a_search_by_workers_of_whom_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """It finds what a search by one process finds, from a supernet that a KShotSGD has trained."""
    pytest.importorskip("ray", reason="Ray is not installed")
    folders = [tmp_path / name for name in ("alone", "workers")]
    for folder in folders:
        folder.mkdir()
    expected = search(folders[0])
    map_by_workers, killed = RayMap.__call__, tmp_path / "killed"

    def map_and_lose_a_worker(self: RayMap, function: Callable, arguments: Iterable) -> Iterator:
        def evaluate(argument: object) -> object:
            if (killed.parent / "evaluated").exists() and not killed.exists():
                killed.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            (killed.parent / "evaluated").touch()
            return function(argument)

        return map_by_workers(self, evaluate, arguments)

    monkeypatch.setattr(RayMap, "__call__", map_and_lose_a_worker)
    found = search(folders[1], "--workers", "2")
    assert int(killed.read_text()) != os.getpid()
    assert found == expected
