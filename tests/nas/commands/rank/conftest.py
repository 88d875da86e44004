"""One ranking, small and done once, that tests look at, and its table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from rank_runs import SETTINGS, small_steps

from kshot_ext.nas.commands.frame import EXIT_DONE
from kshot_ext.nas.commands.rank import rank_command


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 81 architectures: the first four layers vary."""
    path = tmp_path_factory.mktemp("truth") / "table.json"
    keys = ["".join(map(str, choices)) + "1111" for choices in product(range(3), repeat=4)]
    path.write_text(json.dumps({key: {"mean_acc": 50 + index / 7} for index, key in enumerate(keys)}))
    return path


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "miniature.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module", autouse=True)
def _small_steps() -> Iterator[None]:
    with small_steps():
        yield


@pytest.fixture(scope="session")
def finished(config: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ranking that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    with small_steps():
        assert rank_command({"truth": str(table), "out": str(out)}, config, None) == EXIT_DONE
    return out
