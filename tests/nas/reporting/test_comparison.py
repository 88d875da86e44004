from __future__ import annotations

import json
from pathlib import Path

import pytest

from kshot_ext.nas.commands.compare import compare_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.reporting.comparison import compare_runs
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.run_card import RunCard
from kshot_ext.nas.runs.run_folder import RunFolder, RunFolderError, RunRecord
from kshot_ext.nas.runs.settings import RankSettings, RunSettings, SupernetSettings

OLD = {"title": "", "architecture": {"operations": [0, 1], "widths": None}, "macs": 3}


def _run(path: Path, splits: DataSplits, command: str, settings: SupernetSettings) -> Path:
    RunFolder.create(path, settings, RunCard.new(command, settings, "stripes", splits)).close()
    return path


@pytest.fixture
def ranked(tmp_path: Path, tiny_splits: DataSplits) -> tuple[Path, Path]:
    """Two rankings that differ in the number of shots; the second is not finished."""
    runs = [
        _run(tmp_path / f"shots{shots}", tiny_splits, "rank", gather_settings(RankSettings(), None, {"shots": shots}))
        for shots in (1, 8)
    ]
    entry = {
        "run": RunRecord(runs[0]).card.run,
        "kendall_tau": 0.123456789,
        "spearman_rho": None,
        "steps": 1875,
        "verdict": "one copy",
        "effective_rank": 1.0,
        "curve": [],
    }
    (runs[0] / "ranking.json").write_text(json.dumps({"runs": [entry]}))
    lines = [{"stage": "supernet", "step": step, "loss": 2 / step} for step in (1, 2)]
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (runs[1] / "metrics.jsonl").write_text(json.dumps(lines[0]) + '\n{"stage": "su')
    return runs[0], runs[1]


def test_what_differs_is_shown_and_what_agrees_is_not(ranked: tuple[Path, Path]) -> None:
    comparison = compare_runs(*ranked)
    assert comparison.names == ("shots1", "shots8")
    assert comparison.settings == {"shots": ("1", "8")}
    assert comparison.results["Kendall's tau, by accuracy"] == ("0.123457", "-")
    assert comparison.results["Spearman's rho, by accuracy"] == ("-", "-")
    assert comparison.results["K-shot or one-shot"] == ("one copy", "-")
    assert comparison.results["effective rank of the weights"] == ("1", "-")
    assert comparison.results["training steps"] == ("1,875", "-")
    assert {curve.heading: points for curve, points in comparison.curves.items()} == {
        "Training loss of the supernet": {"shots1": [(1, 2.0), (2, 1.0)], "shots8": [(1, 2.0)]}
    }


def test_runs_of_different_commands(ranked: tuple[Path, Path], tmp_path: Path, tiny_splits: DataSplits) -> None:
    search = _run(tmp_path / "other" / "shots1", tiny_splits, "search", RunSettings())
    comparison = compare_runs(ranked[0], search)
    assert comparison.names == (str(ranked[0]), str(search))
    assert comparison.settings["command"] == ("rank", "search")
    assert comparison.settings["budget"] == ("-", "60%")


def test_the_codes_of_two_searches(tmp_path: Path, tiny_splits: DataSplits) -> None:
    runs = [_run(tmp_path / name, tiny_splits, "search", RunSettings()) for name in ("one", "other")]
    old = {"winner": OLD | {"test_accuracy": 0.9}, "random": OLD | {"test_accuracy": 0.7}}  # before there were versions
    codes = {"verdict": "one-shot", "distance": 0.075, "least_share": 0.2, "effective_rank": 1.03}
    (runs[0] / "results.json").write_text(json.dumps(old | {"codes": codes}))
    (runs[1] / "results.json").write_text(json.dumps(old | {"codes": codes | {"verdict": "K-shot", "distance": 0.3}}))
    results = compare_runs(*runs).results
    assert results["K-shot or one-shot"] == ("one-shot", "K-shot")
    assert results["distance of codes"] == ("0.075", "0.3")
    assert results["least share of a copy"] == ("0.2", "0.2")
    assert results["effective rank of the weights"] == ("1.03", "1.03")
    assert results["mean test accuracy of its random rivals"] == ("0.7", "0.7")
    (runs[1] / "results.json").write_text(json.dumps(old | {"codes": codes | {"verdict": ["K-shot"]}}))
    with pytest.raises(RunFolderError, match=r"codes.verdict: expected one of K-shot, .*, got \['K-shot'\]"):
        compare_runs(*runs)


def test_a_page_and_tables(
    ranked: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare_command(*ranked) == EXIT_DONE
    assert "0.123457" in capsys.readouterr().out
    page = (tmp_path / "compare-shots1-shots8.html").read_text()
    for text in ("0.123457", "Training loss of the supernet", "<polyline points=", "shots8"):
        assert text in page
    assert compare_command(*ranked) == EXIT_ERROR
    assert "compare-shots1-shots8.html: exists already; choose another --out" in capsys.readouterr().err


def test_no_run_and_damaged_runs_are_errors(
    ranked: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare_command(ranked[0], tmp_path) == EXIT_ERROR
    assert "not a run folder" in capsys.readouterr().err
    (ranked[0] / "ranking.json").write_text('{"runs": []}')
    assert compare_command(*ranked) == EXIT_ERROR
    assert "ranking.json: damaged results" in capsys.readouterr().err
    assert list(tmp_path.glob("*.html")) == []
