"""What sides gain over one copy, from run folders to table and plot."""

import json
import math

import pytest
import typer

from benchmarks import ranking_nb201
from benchmarks.ranking_nb201 import (
    Difference,
    Side,
    by_side,
    difference,
    difference_table,
    gather,
    mean_table,
    merged,
    plot,
)
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RankSettings
from kshot_ext.nas.tables import read_toml


def entry(side, seed, tau, trial="one-cell", **more):
    numbers = dict.fromkeys(ranking_nb201._NUMBERS.values(), tau)
    kept = {"steps": 100, "shots": 4, "code_distance": 0.5, "min_entry_share": 0.2, "seconds": 120.0}
    return {"run": f"{side}{seed}{trial}", "trial": trial, "side": side, "seed": seed, **kept, **numbers, **more}


ENTRIES = [
    entry("count-4", 1, 0.6), entry("one", 0, 0.3), entry("count-4", 0, 0.5), entry("one", 1, 0.5),
    entry("count-4", 7, 0.9), entry("count-4", 0, 0.7, "two-times"), entry("one", 0, 0.6, "two-times"),
]  # fmt: skip


def test_differences_are_paired_by_seed_and_trial():
    groups = by_side(ENTRIES)
    names = [(trial, side) for trial in ("one-cell", "two-times") for side in ("one", "count-4")]
    assert list(groups) == names
    found = difference(groups["one-cell", "count-4"], groups["one-cell", "one"], "kendall_tau")
    assert found == Difference(pytest.approx(0.15), pytest.approx(0.05), 2)  # 0.2 and 0.1
    assert str(found) == "+0.150 (0.050)"
    assert str(difference(groups["two-times", "count-4"], groups["two-times", "one"], "kendall_tau")) == "+0.100"
    assert difference(groups["one-cell", "count-4"], {}, "kendall_tau") is None


def test_tables_and_plot_show_every_side():
    means = {
        str(column.header): list(column.cells) for column in mean_table(ENTRIES, ranking_nb201._NUMBERS, "").columns
    }
    named = [f"{trial}: {side}" for trial in ("one-cell", "two-times") for side in ("one", "count-4")]
    assert means["side"] == named
    assert means["tau"] == ["0.400", "0.667", "0.600", "0.700"]
    assert means["minutes"] == ["2"] * 4
    differences = {
        str(column.header): list(column.cells)
        for column in difference_table(ENTRIES, ranking_nb201._NUMBERS, "").columns
    }
    assert differences["side"] == named[1::2]
    assert differences["better half"] == ["+0.150 (0.050)", "+0.100"]
    assert differences["seeds"] == ["2", "1"]
    panels = plot(ENTRIES).axes
    assert [len(axes.containers) for axes in panels] == [2, 2, 2]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == named[1::2]
    of_one_trial = mean_table(ENTRIES[:5], ranking_nb201._NUMBERS, "").columns[0]
    assert list(of_one_trial.cells) == ["one", "count-4"]


def test_gathers_finished_runs_by_their_held_out_loss(tmp_path):
    evaluated = [
        {"architecture": "330000", "truth": 90.0, "accuracy": 0.1, "loss": 1.0},
        {"architecture": "303000", "truth": 80.0, "accuracy": 0.9, "loss": 2.0},
        {"architecture": "000000", "truth": 10.0, "accuracy": 0.2, "loss": None},
    ]
    run = entry("one", 0, 0.0) | {"architectures": 3}
    for name in ("one-3", "count-4-12", "unfinished-0"):
        folder = tmp_path / "five-cells" / name
        folder.mkdir(parents=True)
        (folder / "evaluated.json").write_text(json.dumps(evaluated))
        if name != "unfinished-0":
            (folder / "ranking.json").write_text(json.dumps({"runs": [run]}))
    found = gather(tmp_path)
    assert [(item["trial"], item["side"], item["seed"]) for item in found] == [
        ("five-cells", "count-4", 12),
        ("five-cells", "one", 3),
    ]
    assert (found[0]["kendall_tau"], found[0]["truth_of_favourite"], found[0]["architectures"]) == (1.0, 90.0, 3)
    assert all(math.isfinite(value) for value in found[0].values() if isinstance(value, float))
    assert found[0]["kendall_tau_equal_cost"] == 1  # the first two have two 3x3 convolutions each
    assert found[0]["kendall_tau_of_macs"] == pytest.approx(2 / math.sqrt(3 * 2))


def test_sides_and_trials_are_settings_of_rank():
    sides = Side.read()
    assert next(iter(sides)) == "one"
    for trial in read_toml(ranking_nb201.TRIALS).values():
        for side in sides.values():
            settings = gather_settings(RankSettings(), ranking_nb201.CONFIG, merged(trial, side.settings))
            assert settings.codes.perturbation == 0  # else it could not share a warm-up
            assert settings.training.warm_up == settings.training.epochs // 2
            assert settings.codes.fixed_epochs == side.settings.get("codes", {}).get(
                "fixed_epochs", settings.training.warm_up
            )
            base = sides[side.base]
            assert base.base == base.name  # it has a warm-up of its own
            assert base.settings["shots"] == 1


def test_trains_what_is_not_done_and_shares_the_warm_up(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ranking_nb201, "rank_command", lambda *call: calls.append(call) or 0)
    runs = tmp_path / "two-times"
    for name, file in {"one-0": "ranking.json", "count-4-1": "run.json"}.items():
        (runs / name).mkdir(parents=True)
        (runs / name / file).write_text("{}")
    given = (tmp_path / "d", tmp_path / "t", tmp_path)
    ranking_nb201.train(*given, "0-1", "count-4", "two-times", ranking_nb201.CONFIG)
    first, second, third = calls  # seed 0's other side; then one copy with seed 1, and the side that was begun
    assert (first[0]["warm_up"], first[0]["seed"], first[0]["shots"]) == (str(runs / "one-0"), 0, 4)
    assert first[0]["training"] == {"epochs": 40, "warmup_epochs": 20}
    assert first[0]["codes"] == {"fixed_epochs": 20, "start": "count", "free_share": 0.6}
    assert (second[0]["keep_warm_up"], second[0]["shots"], second[1]) == (True, 1, ranking_nb201.CONFIG)
    assert third == ({}, None, runs / "count-4-1")
    assert rank_command is not ranking_nb201.rank_command


def test_a_side_with_another_warm_up_brings_its_base(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ranking_nb201, "rank_command", lambda *call: calls.append(call) or 0)
    ranking_nb201.train(tmp_path, tmp_path, tmp_path, "0", "count-4-cost-aware")
    one, base, side = (options for options, *_ in calls)
    assert [one["out"], base["out"]] == [str(tmp_path / "one-cell" / f"{name}-0") for name in ("one", "one-cost-aware")]
    assert "warm_up" not in one | base
    assert side["warm_up"] == base["out"]
    assert "base" not in side


def test_unknown_sides_and_trials_are_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match="sides: expected some of one, count-4"):
        ranking_nb201.train(tmp_path, tmp_path, tmp_path, "0", "count-5")
    with pytest.raises(typer.BadParameter, match="trial: expected some of one-cell, one-cell-again"):
        ranking_nb201.train(tmp_path, tmp_path, tmp_path, "0", "count-4", "three-times")
    assert not list(tmp_path.iterdir())
