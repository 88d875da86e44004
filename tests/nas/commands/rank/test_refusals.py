"""What `kshot-ext rank` refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kshot_ext.nas.commands.frame import EXIT_ERROR
from kshot_ext.nas.commands.rank import rank_command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": None}, "truth: expected a table of stand-alone accuracies: --truth FILE"),
        ({"truth": "none.json"}, "none.json: cannot be read (No such file or directory)"),
        ({"architectures": 100}, "architectures: expected at most the 81 of the table, got 100"),
        ({"architectures": 1}, "architectures: expected 2 or more, got 1"),
        ({"space": "nas-bench-201"}, "key '00001111': expected the form |nor_conv_3x3~0|"),
        ({"space": "shufflenet-v2", "image_size": 16}, "space shufflenet-v2 has 20 layers, got 8 operations"),
        ({"results": "none/all.json"}, "there is no folder"),
        ({"device": "tpu"}, "device: expected cpu, cuda or cuda:N, got 'tpu'"),
    ],
)
def test_an_error_names_the_value_and_writes_nothing(
    config: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rank_command({"truth": str(table)} | options, config, None) == EXIT_ERROR
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_an_error(
    config: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rank_command({"truth": str(table), "device": "cuda"}, config, None) == EXIT_ERROR
    assert "device: expected one of this machine, got 'cuda': torch finds no GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(
    config: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rank_command({"truth": str(table)}, config, None) == EXIT_ERROR
    assert "rank runs in one process" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_ranking_goes_on_only_with_what_it_began_with(
    finished: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    def refuses(message: str, **options: object) -> None:
        assert rank_command(options, None, finished) == EXIT_ERROR
        assert message in capsys.readouterr().err

    refuses("shots is 2 in the run, 3 asked", shots=3)
    content = table.read_text()
    table.write_text(content.replace("50.0", "49.0"))
    refuses(f"truth: {table} is not what the run began with")
    table.write_text(content)
    settings = finished / "settings.toml"
    settings.write_text(settings.read_text().replace("epochs = 3", "epochs = 4"))
    refuses("its settings were changed since the run began")
    settings.write_bytes(before[settings])
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
