"""One search, small and done once, that tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kshot_ext import nas
from kshot_ext.nas.commands.frame import EXIT_DONE
from kshot_ext.nas.commands.search import search_command

SETTINGS: dict[str, Any] = {
    "channels": 2,
    "max_images": 200,
    "shots": 2,
    "rivals": 2,
    "method": {"simplex_every": 1},
    "training": {"epochs": 2, "batch_size": 32, "warmup_epochs": 1},
    "search": {"population": 4, "generations": 2},
    "retrain": {"epochs": 1, "batch_size": 16, "seeds": 2},
}


@pytest.fixture(scope="session")
def told() -> dict[str, list[Any]]:
    """What the call-backs of the search were told."""
    return {"epochs": [], "evaluated": [], "stages": []}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, told: dict[str, list[Any]]) -> nas.SearchRun:
    """The search."""
    found = nas.search(
        SETTINGS,
        out=tmp_path_factory.mktemp("runs") / "run",
        on_epoch=told["epochs"].append,
        on_evaluated=told["evaluated"].append,
        on_stage=told["stages"].append,
        progress=False,
    )
    assert found is not None
    return found


@pytest.fixture(scope="session")
def by_command(tmp_path_factory: pytest.TempPathFactory, run: nas.SearchRun) -> Path:
    """Folder of the same search by the command."""
    out = tmp_path_factory.mktemp("command") / "run"
    assert search_command({"out": str(out)}, run.path / "settings.toml", None) == EXIT_DONE
    return out
