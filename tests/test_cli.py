"""The `kshot-ext` command."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kshot_ext import backend
from kshot_ext.cli import app
from kshot_ext.nas.spaces import space_names

COMMAND = [sys.executable, "-m", "kshot_ext", "search"]


def test_info_prints_the_backend() -> None:
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    assert backend.info().backend in result.stdout
    assert "cpu capability" in result.stdout
    lines = [re.sub(r"[│\s]+", " ", line).strip() for line in result.stdout.splitlines()]
    assert f"python {platform.python_version()}" in lines
    assert "extra search installed" in lines
    assert any(line.startswith("CUDA not in use: ") for line in lines) == (not torch.cuda.is_available())


def test_info_tells_of_cuda_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backend, "cuda_info", lambda: backend.BackendInfo("reference", "no nvcc in this test"))
    output = " ".join(CliRunner().invoke(app, ["info"]).stdout.split())
    assert "CUDA backend" in output
    assert "no nvcc in this test" in output


def test_info_fails_where_native_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = backend.BackendInfo("reference", "the native kernels are not available", error="no compiler")
    monkeypatch.setattr(backend, "info", lambda: broken)
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 1
    assert "no compiler" in result.stdout


def test_info_explains_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise backend.BackendError("expected KSHOT_EXT_BACKEND to be [something else]")

    monkeypatch.setattr(backend, "info", refuse)
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 1
    assert "[something else]" in result.stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("search", "data space method widths shots epochs seed budget truth device out config resume"),
        (
            "rank",
            "data truth space method shots epochs seed architectures checkpoints device results out config resume",
        ),
        ("retrain", "architecture epochs seed out space task method"),
        ("export", "architecture format weights out space task method"),
        ("analyse", "space method"),
        ("compare", "out method"),
    ],
)
def test_the_help_names_every_option(command: str, options: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120", "TERM": "dumb"}).output
    for option in options.split():
        assert f"--{option}" in text


@pytest.mark.parametrize("command", ["search", "rank"])
def test_the_help_names_every_space(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300", "TERM": "dumb"}).output
    assert [name for name in space_names() if name not in text] == []


@pytest.mark.parametrize("arguments", [["rank", "--epochs", "1"], ["analyse", "none"], ["compare", "none", "none"]])
def test_commands_without_what_they_need_end_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "expected a table" in result.stderr or "none: not a run folder" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "many"], "'many'"),
        (["--space", "darts"], "space: expected one of nas-bench-macro"),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (["--resume", "none"], "none: not a run folder"),
        (["--data", "photos.rar"], "photos.rar: no such file or folder"),
    ],
)
def test_unusable_options_end_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["search", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_the_command_that_resumes_it(tmp_path: Path, sent: signal.Signals) -> None:
    """What batch systems and closing terminals send; Python itself makes SIGINT the interrupt that it has to become."""
    arguments = ["--epochs", "1000", "--channels", "4", "--max-images", "300", "--out", "run"]
    with subprocess.Popen(
        COMMAND + arguments,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),  # under nohup these tests ignore SIGHUP
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("train supernet 2/1000") for line in process.stdout)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; what was saved before is safe; go on with: kshot-ext search --resume run" in errors
    assert (tmp_path / "run" / "checkpoints" / "supernet.safetensors").exists()


def test_the_version_is_told() -> None:
    text = CliRunner().invoke(app, ["--version"]).stdout
    assert text == f"kshot_ext {metadata.version('kshot_ext')}, torch {metadata.version('torch')}\n"


def test_the_config_that_is_printed_begins_a_run_like_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["search", "--shots", "3", "--batch-size", "16", "--learning-rate", "0.05", "--precision", "bfloat16"]
    text = CliRunner().invoke(app, [*asked, "--print-config"]).stdout
    for line in ("shots = 3", "batch_size = 16", "learning_rate = 0.05", 'precision = "bfloat16"'):
        assert f"\n{line}\n" in text
    Path("mine.toml").write_text(text)
    again = CliRunner().invoke(app, ["search", "--config", "mine.toml", "--print-config", "--seed", "4"]).stdout
    assert again == text.replace("seed = 0", "seed = 4")
    refused = CliRunner().invoke(app, ["rank", "--print-config", "--epochs", "0"])
    assert refused.exit_code == 2
    assert "training.epochs: expected at least 1, got 0" in refused.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.toml"]


def test_the_result_is_printed_for_programs_and_nothing_else(tmp_path: Path) -> None:
    """In a process of its own, as what it prints is the point, and it sets its threads."""
    arguments = ["--epochs", "1", "--retrain-epochs", "1", "--channels", "4", "--max-images", "300", "--seed", "2"]
    arguments += ["--config", "few.toml", "--out", "run", "--threads", "1", "--json", "--quiet"]
    (tmp_path / "few.toml").write_text("[search]\npopulation = 2\ngenerations = 1\n")
    ended = subprocess.run(COMMAND + arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert result.pop("folder") == "run"
    assert (tmp_path / result.pop("report")).exists()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert " INFO train supernet 1/1: loss " in log
    assert log.endswith("INFO done; report: run/report.html\n")
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result == {name: value for name, value in kept.items() if name != "run"}
