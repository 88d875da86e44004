"""The page about searching from Python: its code runs as it stands, beside loggers that keep what they are told."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kshot_ext import nas
from kshot_ext.nas.tables import to_toml

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
*BLOCKS, WANDB, MLFLOW = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
SMALL = {
    "channels": 2,
    "max_images": 200,
    "shots": 1,
    "rivals": 1,
    "training": {"epochs": 1, "warmup_epochs": 0},
    "search": {"population": 2, "generations": 1},
    "retrain": {"epochs": 1, "seeds": 1},
}


def test_the_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(BLOCKS), names)
    printed = capsys.readouterr().out
    assert "trained inherited" in printed
    assert "torch.export.load('digits/export/winner.pt2')" in printed
    assert names["another"].path == Path("digits/retrained") / f"{names['best'].key}-seed-1"
    assert names["run"].results["comparison"]["winner"]["count"] == 2


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(to_toml(SMALL))


@pytest.mark.parametrize("example", [WANDB, MLFLOW])
def test_the_examples_for_loggers_take_ten_lines(example: str) -> None:
    lines = [line for line in example.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


@pytest.mark.usefixtures("small")
def test_weights_and_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, float]] = []
    log = SimpleNamespace(log=logged.append)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda project: nullcontext(log)))
    exec(WANDB, {})
    names = {name for line in logged for name in line}
    assert {"supernet/loss", "search/best_loss", "retrain-winner/loss", "retrain-random/loss", "loss"} <= names
    assert [line["macs"] for line in logged if "macs" in line] == [network.macs for network in the_run().history]


@pytest.mark.usefixtures("small")
def test_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    mlflow = SimpleNamespace(
        start_run=nullcontext,
        log_metrics=lambda values, step: logged.append((step, values)),
        log_metric=lambda name, value: logged.append((name, value)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    exec(MLFLOW, {})
    assert logged[0][0] == 1
    assert set(logged[0][1]) >= {"supernet/loss", "supernet/accuracy"}
    assert logged[-1] == ("test_accuracy", the_run().winner.test_accuracy)


def the_run() -> nas.SearchRun:
    (folder,) = Path("runs").iterdir()
    found = nas.load_run(folder)
    assert isinstance(found, nas.SearchRun)
    return found
