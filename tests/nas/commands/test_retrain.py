"""``kshot-ext retrain`` and ``export``: what they print; what they do is tested with the program's calls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kshot_ext.cli import app

SETTINGS = ["--channels", "2", "--max-images", "200", "--shots", "1", "--epochs", "1", "--retrain-epochs", "1"]
FEW = "rivals = 0\nretrain_seeds = 1\n[training]\nwarmup_epochs = 0\n[search]\npopulation = 2\ngenerations = 1\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "few.toml").write_text(FEW)
    command = ["search", *SETTINGS, "--config", str(folder / "few.toml"), "--out", str(folder / "run")]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "run")
    return Path("run")


def test_a_point_of_the_history_is_trained(run: Path) -> None:
    (first, *_) = json.loads((run / "results.json").read_text())["history"]
    ended = CliRunner().invoke(app, ["retrain", "run", "--architecture", "0", "--epochs", "2"])
    assert ended.exit_code == 0, ended.output
    assert "retrain network 2/2: loss" in ended.stdout
    assert f"network {first['key']}: test accuracy" in ended.stdout
    assert f"folder: run/retrained/{first['key']}" in ended.stdout
    again = CliRunner().invoke(app, ["retrain", "run", "--architecture", first["key"], "--epochs", "2", "--json"])
    assert json.loads(again.stdout)["operations"] == first["operations"]
    assert "retrain network" not in again.stderr  # it is there already


def test_an_interrupted_training_tells_the_command_that_goes_on(
    run: Path, stop_before_saves: Callable[[Collection[int]], list[int]]
) -> None:
    stop_before_saves({2})
    arguments = ["retrain", "run", "--architecture", "0", "--epochs", "2", "--seed", "3"]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 130
    assert f"go on by the same command: kshot-ext {' '.join(arguments)}\n" in ended.stderr
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    assert "retrain network 1/2" not in again.stdout


def test_a_file_is_written_and_its_use_is_told(run: Path) -> None:
    ended = CliRunner().invoke(app, ["export", "run"])
    assert ended.exit_code == 0, ended.output
    first, *snippet = ended.stdout.splitlines()
    assert first == "run/export/winner.pt2: trained weights; torch gives the network's scores"
    assert len(snippet) == 3
    exec("\n".join(snippet), {})
    again = CliRunner().invoke(app, ["export", "run"])
    assert again.exit_code == 2
    assert "run/export/winner.pt2: exists already; choose another file, or move it away" in again.stderr


def test_the_folder_of_a_training_is_exported_too(run: Path) -> None:
    trained = CliRunner().invoke(app, ["retrain", "run", "--architecture", "1", "--json", "--quiet"])
    assert trained.exit_code == 0, trained.output
    folder, key = (json.loads(trained.stdout)[name] for name in ("folder", "key"))
    ended = CliRunner().invoke(app, ["export", folder])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith(f"{folder}/export/{key}.pt2: trained weights; torch gives the network's scores")
    for options in (["--architecture", "0"], ["--weights", "inherited"]):
        refused = CliRunner().invoke(app, ["export", folder, *options])
        assert refused.exit_code == 2
        assert "holds one trained network; leave --architecture and --weights out" in refused.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrain", "none"], "none: not a run folder"),
        (["retrain", "run", "--architecture", "99"], "expected one of the 2 that were evaluated, from 0, or a key"),
        (["retrain", "run", "--epochs", "0"], "retrain.epochs: expected at least 1, got 0"),
        (["export", "run", "--format", "pickle"], "format: expected one of pt2, onnx, safetensors, got 'pickle'"),
        (["export", "run", "--weights", "mine"], "weights: expected trained or inherited, got 'mine'"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(run: Path, arguments: list[str], message: str) -> None:
    before = sorted(path for path in run.rglob("*") if path.name != ".lock")
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2
    assert message in ended.stderr.replace("\n", " ")
    assert sorted(path for path in run.rglob("*") if path.name != ".lock") == before


def test_results_that_name_no_architecture_of_the_space_are_refused_in_one_line(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    results["history"][0]["architecture"]["operations"] = [9] * 8
    (run / "results.json").write_text(json.dumps(results))
    ended = CliRunner().invoke(app, ["retrain", "run", "--architecture", "0"])
    assert ended.exit_code == 2, ended.exception
    assert "operations[0]: expected one of 0 (identity)" in ended.stderr.replace("\n", " ")


def test_a_run_that_has_not_ended_says_how_it_ends(run: Path) -> None:
    (run / "results.json").unlink()
    ended = CliRunner().invoke(app, ["export", "run"])
    assert ended.exit_code == 2
    assert "none yet: the run has not ended; go on with it by kshot-ext search --resume run" in ended.stderr.replace(
        "\n", " "
    )
