"""`kshot-ext truth`: a published table becomes one that `--truth` takes, and no file is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kshot_ext.nas.commands.frame import Output
from kshot_ext.nas.commands.truth import truth_command


def test_a_table_is_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "published.csv", tmp_path / "truth.json"
    table.write_text("arch,acc\n00000012,89.5\n22222222,93\n")
    assert truth_command(table, "nas-bench-macro", out, None, "cifar10") == 0
    assert json.loads(out.read_text()) == {"00000012": 89.5, "22222222": 93.0}
    assert "2 architectures of nas-bench-macro; the best is 22222222 with 93.00" in capsys.readouterr().out

    before = out.read_bytes()
    assert truth_command(table, "nas-bench-macro", out, None, "cifar10") == 2
    assert "expected a new file, got one that exists" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_errors_are_one_line_and_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "published.json", tmp_path / "truth.json"
    table.write_text('{"000": 1}')
    assert truth_command(table, "nas-bench-macro", out, None, "cifar10") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
    table.write_text('{"00000000": 1}')
    assert truth_command(table, "nas-bench-macro", out, None, "cifar10", Output(json=True)) == 0
    told = {"table": str(out), "architectures": 1, "best": "00000000", "accuracy": 1.0}
    assert json.loads(capsys.readouterr().out) == told
