"""What sides gain over one copy, from run folders to table and plot."""

import json
import math

import pytest
import typer

from benchmarks import ranking_nb201
from benchmarks.ranking_nb201 import Difference, by_side, difference, difference_table, gather, mean_table, plot
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.runs.settings import RankSettings, gather_settings


def entry(side, seed, tau, steps=100, **more):
    numbers = dict.fromkeys(ranking_nb201._NUMBERS.values(), tau)
    kept = {"steps": steps, "shots": 4, "code_distance": 0.5, "min_entry_share": 0.2, "seconds": 120.0}
    return {"run": f"{side}{seed}{steps}", "side": side, "seed": seed, **kept, **numbers, **more}


ENTRIES = [
    entry("count-4", 1, 0.6), entry("one", 0, 0.3), entry("count-4", 0, 0.5), entry("one", 1, 0.5),
    entry("count-4", 7, 0.9), entry("count-4", 0, 0.7, steps=200), entry("one", 0, 0.6, steps=200),
]  # fmt: skip


def test_differences_are_paired_by_seed_and_steps():
    groups = by_side(ENTRIES)
    assert list(groups) == [("one", 100), ("one", 200), ("count-4", 100), ("count-4", 200)]
    found = difference(groups["count-4", 100], groups["one", 100], "kendall_tau")
    assert found == Difference(pytest.approx(0.15), pytest.approx(0.05), 2)  # 0.2 and 0.1
    assert str(found) == "+0.150 (0.050)"
    assert str(difference(groups["count-4", 200], groups["one", 200], "kendall_tau")) == "+0.100"
    assert difference(groups["count-4", 100], {}, "kendall_tau") is None


def test_tables_and_plot_show_every_side():
    means = {
        str(column.header): list(column.cells) for column in mean_table(ENTRIES, ranking_nb201._NUMBERS, "").columns
    }
    assert means["side"] == ["one", "one", "count-4", "count-4"]
    assert means["tau"] == ["0.400", "0.600", "0.667", "0.700"]
    assert means["minutes"] == ["2"] * 4
    differences = {
        str(column.header): list(column.cells)
        for column in difference_table(ENTRIES, ranking_nb201._NUMBERS, "").columns
    }
    assert differences["better half"] == ["+0.150 (0.050)", "+0.100"]
    assert differences["seeds"] == ["2", "1"]
    panels = plot(ENTRIES).axes
    assert [len(axes.containers) for axes in panels] == [2, 2, 2]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["count-4, 100", "count-4, 200"]


def test_gathers_finished_runs_by_their_held_out_loss(tmp_path):
    evaluated = [
        {"architecture": "a", "truth": 90.0, "accuracy": 0.1, "loss": 1.0},
        {"architecture": "b", "truth": 80.0, "accuracy": 0.9, "loss": 2.0},
        {"architecture": "c", "truth": 10.0, "accuracy": 0.2, "loss": None},
    ]
    run = entry("one", 0, 0.0) | {"architectures": 3}
    for name in ("one-3", "count-4-12", "unfinished-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluated.json").write_text(json.dumps(evaluated))
        if name != "unfinished-0":
            (tmp_path / name / "ranking.json").write_text(json.dumps({"runs": [run]}))
    found = gather(tmp_path)
    assert [(item["side"], item["seed"]) for item in found] == [("count-4", 12), ("one", 3)]
    assert (found[0]["kendall_tau"], found[0]["truth_of_favourite"], found[0]["architectures"]) == (1.0, 90.0, 3)
    assert all(math.isfinite(value) for value in found[0].values() if isinstance(value, float))


def test_sides_are_settings_of_rank(tmp_path):
    sides = ranking_nb201.read_sides()
    assert next(iter(sides)) == "one"
    for side in sides.values():
        settings = gather_settings(RankSettings(), ranking_nb201.CONFIG, side)
        assert settings.codes.perturbation == 0  # else it could not share a warm-up
        assert settings.training.warm_up < settings.training.epochs


def test_trains_what_is_not_done_and_shares_the_warm_up(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ranking_nb201, "rank_command", lambda *call: calls.append(call) or 0)
    (tmp_path / "one-0").mkdir()
    (tmp_path / "one-0" / "ranking.json").write_text("{}")
    (tmp_path / "count-4-1").mkdir()
    (tmp_path / "count-4-1" / "run.json").write_text("{}")
    ranking_nb201.train(tmp_path / "d", tmp_path / "t", tmp_path, "0-1", "count-4", ranking_nb201.CONFIG)
    first, second, third = calls  # seed 0's other side; then one copy with seed 1, and the side that was begun
    assert (first[0]["warm_up"], first[0]["seed"], first[0]["shots"]) == (str(tmp_path / "one-0"), 0, 4)
    assert (second[0]["keep_warm_up"], second[0]["shots"], second[1]) == (True, 1, ranking_nb201.CONFIG)
    assert third == ({}, None, tmp_path / "count-4-1")
    with pytest.raises(typer.BadParameter, match="expected some of one, count-4"):
        ranking_nb201.train(tmp_path, tmp_path, tmp_path, "0", "count-5", ranking_nb201.CONFIG)
    assert rank_command is not ranking_nb201.rank_command
