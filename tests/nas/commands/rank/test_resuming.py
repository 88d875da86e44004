"""`kshot-ext rank` in miniature: stopped, damaged, and gone on with."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from rank_runs import STEPS, entry_of

from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.reporting import rank_outputs

STOPPED_AT = (4, 8)  # in the first evaluation, in the second


def test_a_ranking_stopped_again_and_again_goes_on_as_if_never_stopped(
    config: Path,
    table: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_before_saves: Callable[[Collection[int]], list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    saves = stop_before_saves(STOPPED_AT)
    assert rank_command({"truth": str(table), "out": str(out)}, config, None) == EXIT_INTERRUPTED
    assert f"go on with: kshot-ext rank --resume {out}" in capsys.readouterr().err
    assert rank_command({}, None, out) == EXIT_INTERRUPTED
    assert rank_command({}, None, out) == EXIT_DONE
    assert len(saves) == STEPS + len(STOPPED_AT)
    assert (out / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert (out / "evaluated.json").read_text() == (finished / "evaluated.json").read_text()
    entry = entry_of(out / "ranking.json")
    console = capsys.readouterr().out
    assert "before training" not in console
    assert "this is a K-shot run: codes differ, and all 2 copies are in use" in console
    assert rank_command({}, None, out) == EXIT_DONE  # once more: the same entry, not another
    assert entry_of(out / "ranking.json") == entry


def test_an_evaluation_that_is_gone_is_not_made_from_later_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "checkpoints" / "evaluation-2.safetensors").unlink()
    assert rank_command({}, None, run) == EXIT_ERROR
    assert f"or delete {run / 'checkpoints' / 'supernet.safetensors'} to train again" in capsys.readouterr().err
    (run / "checkpoints" / "supernet.safetensors").unlink()
    assert rank_command({}, None, run) == EXIT_DONE
    assert entry_of(run / "ranking.json")["curve"] == entry_of(finished / "ranking.json")["curve"]


def test_damaged_numbers_of_a_ranking_are_made_again(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "metrics.jsonl").read_text()
    changed = re.sub(r'("ranking", "step": 2,.*"regret": )[^,]*', r"\1 77.0", text)
    assert changed != text
    (run / "metrics.jsonl").write_text(changed)
    assert rank_command({}, None, run) == EXIT_DONE
    assert "the record of ranking 2 is not what was written; made again" in caplog.text
    assert (run / "metrics.jsonl").read_text() == text


def test_results_damaged_meanwhile_are_named_with_the_way_to_go_on(
    finished: Path, config: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(rank_outputs, "_figures", lambda *_: (tmp_path / "all.json").write_text("[]") and [])
    options = {"truth": str(table), "out": str(tmp_path / "run"), "results": str(tmp_path / "all.json"), "epochs": 2}
    assert rank_command(options | {"checkpoints": 1}, config, None) == EXIT_ERROR
    error = capsys.readouterr().err
    assert "all.json: expected" in error
    assert "mend or move that file; what was saved before is safe" in error
    assert error.strip().endswith(f"go on with: kshot-ext rank --resume {tmp_path / 'run'}")
    assert (tmp_path / "all.json").read_text() == "[]"
