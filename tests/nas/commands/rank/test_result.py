"""What `kshot-ext rank` finds and leaves, in miniature."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from rank_runs import entry_of, recorded_calls

from kshot_ext.nas.commands.analyse import analyse_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.ranking.rank_correlation import kendall_tau, rank_correlation
from kshot_ext.nas.runs.state_file import load_state

NUMBERS = (
    "kendall_tau", "spearman_rho", "regret", "kendall_tau_by_loss", "spearman_rho_by_loss", "regret_by_loss",
    "steps", "code_distance", "min_entry_share", "architectures",
)  # fmt: skip


def test_the_run_folder_holds_everything(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {"ranking.json", "report.html", "evaluated.json"}
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    # 180 training images less a fifth for simplex steps make 4 batches of 32: 2 epochs, then 3, of 4 steps.
    assert [(r["step"], r["steps"]) for r in records if r["stage"] == "ranking"] == [(2, 8), (3, 12)]
    entry = entry_of(finished / "ranking.json")
    assert (entry["shots"], entry["seed"], entry["steps"], entry["architectures"]) == (2, 0, 12, 4)
    assert [point["steps"] for point in entry["curve"]] == [8, 12]
    assert entry["verdict"] == "K-shot"
    assert entry["code_distance"] > 0.3
    assert 1 < entry["effective_rank"] < 2
    page = (finished / "report.html").read_text()
    assert re.search("Kendall&#39;s tau.*<th[^>]*>by loss</th><th[^>]*>by accuracy</th>", page, re.DOTALL)
    assert entry["score"] == "loss"
    assert 'class="warning"' not in page


def test_the_numbers_are_those_of_the_evaluated_architectures(finished: Path, table: Path) -> None:
    evaluated = json.loads((finished / "evaluated.json").read_text())
    truth = json.loads(table.read_text())
    assert len({item["architecture"] for item in evaluated}) == 4
    assert all(item["truth"] == truth[item["architecture"]]["mean_acc"] for item in evaluated)
    entry = entry_of(finished / "ranking.json")
    for end, score in {"": "accuracy", "_by_loss": "loss"}.items():
        scores = [-item[score] if score == "loss" else item[score] for item in evaluated]
        macs = [item["macs"] for item in evaluated]
        found = asdict(rank_correlation([item["truth"] for item in evaluated], scores, macs))
        assert {name: entry[name + end] for name in found} == pytest.approx(found)
        assert {name: entry["curve"][-1][name + end] for name in found} == pytest.approx(found)
    assert len({item["loss"] for item in evaluated}) == 4
    assert entry["kendall_tau_of_macs"] == kendall_tau([item["truth"] for item in evaluated], macs)
    assert len(set(macs)) > 1


def test_the_score_asked_for_comes_first_and_changes_no_number(
    config: Path, table: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    by_accuracy = tmp_path / "accuracy.toml"
    by_accuracy.write_text(f'{config.read_text()}\n[evaluation]\nscore = "accuracy"\n')
    assert rank_command({"truth": str(table), "out": str(tmp_path / "run")}, by_accuracy, None) == EXIT_DONE
    shown = capsys.readouterr().out
    assert re.search("by accuracy .* by loss ", shown)
    entry, expected = entry_of(tmp_path / "run" / "ranking.json"), entry_of(finished / "ranking.json")
    assert entry["score"] == "accuracy"
    assert entry["curve"] == expected["curve"]
    for name in ("kendall_tau", "mean_truth_of_ten"):
        assert re.search(rf"{entry[name]:.3f} .* {entry[name + '_by_loss']:.3f} ", shown)


def test_evaluating_on_the_way_changes_nothing(
    config: Path, table: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the moving averages, which then give way to the weights."""
    options = {
        "truth": str(table),
        "checkpoints": 1,
        "out": str(tmp_path / "run"),
        "results": str(tmp_path / "all.json"),
    }
    calls = recorded_calls(monkeypatch)
    assert rank_command(options, config, None) == EXIT_DONE
    assert calls == ["train", "train", "train", "averages in", "evaluate", "evaluate", "averages out"]
    entry, expected = entry_of(tmp_path / "run" / "ranking.json"), entry_of(finished / "ranking.json")
    assert [entry[name] for name in NUMBERS] == [expected[name] for name in NUMBERS]
    assert entry_of(tmp_path / "all.json") == entry
    states = [load_state(run / "checkpoints" / "supernet.safetensors") for run in (tmp_path / "run", finished)]
    weights, others = (state["state"]["supernet"] for state in states)
    assert all(map(torch.equal, weights.values(), others.values()))


def test_a_run_is_analysed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyse_command(finished) == EXIT_DONE
    console = capsys.readouterr().out
    assert "rank of the weights of 256 paths" in console
    assert "this is a K-shot run: codes differ, and all 2 copies are in use" in console
    analysis = json.loads((finished / "analysis" / "analysis.json").read_text())
    entry = entry_of(finished / "ranking.json")
    names = {"verdict": "verdict", "distance": "code_distance", "least_share": "min_entry_share"}
    assert {name: analysis["codes"][name] for name in names} == {name: entry[key] for name, key in names.items()}
    assert analysis["whole"]["effective_rank"] == analysis["codes"]["effective_rank"] == entry["effective_rank"]
    assert analysis["epoch"] == 3
    assert 1 <= analysis["whole"]["rank"] <= 2
    assert len(analysis["distances"]["operations"]) == 8
    files = {"analysis.json", "analysis.html"}
    assert {path.name for path in (finished / "analysis").iterdir()} == files


def test_a_run_without_a_trained_epoch_is_not_analysed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run.json", "settings.toml"):
        shutil.copy(finished / name, tmp_path)
    assert analyse_command(tmp_path) == EXIT_ERROR
    assert "no epoch of supernet training is saved yet" in capsys.readouterr().err
    assert analyse_command(tmp_path / "none") == EXIT_ERROR
    assert "none: not a run folder" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "settings.toml"}


def test_a_one_shot_run_is_told_once_its_supernet_is_trained(config, table, tmp_path, capsys) -> None:
    """One epoch of simplex steps does not part codes that start equal; more time need not be spent on those."""
    options = {"truth": str(table), "codes": {"start": "equal"}, "out": str(tmp_path / "run")}
    assert rank_command(options, config, None) == EXIT_DONE
    trained, evaluated = " ".join(capsys.readouterr().out.split()).split("evaluate after epoch 3", 1)
    assert "evaluate after epoch 2" in trained
    assert trained.split("train supernet 3/3")[1].count("supernet: this is a one-shot run, as codes are alike") == 1
    assert "supernet: this is a one-shot run" not in evaluated
    assert "this is a one-shot run: its 2 copies act as one" in evaluated
