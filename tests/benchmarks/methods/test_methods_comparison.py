"""One small run of a method on digits, and table and picture of known numbers."""

import json
from itertools import product

import pytest
import typer

from benchmarks.methods import __main__ as command
from benchmarks.methods import comparison
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RankSettings
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.tables import read_toml

OPTIONS = {
    "space": "nas-bench-macro",
    "method": {"name": "spos"},
    "shots": 1,
    "channels": 2,
    "max_images": 200,
    "held_out": 0.2,
    "architectures": 4,
    "training": {"epochs": 1, "batch_size": 32, "warmup_epochs": 0},
    "seed": 3,
}


def entry(space, method, seed, **numbers):
    known = {"kendall_tau": 0.5, "truth_of_selected": 90.0, "regret_of_selected": 2.0, "seconds": 60.0}
    names = {"space": space, "method": method, "seed": seed, "shots": 1, "steps": 100, "peak_megabytes": 300.0}
    return names | known | numbers


ENTRIES = [
    entry("b", "spos", 0), entry("a", "spos", 1, kendall_tau=0.7), entry("a", "spos", 0, kendall_tau=0.3),
    entry("a", "kshot", 0, truth_of_selected=None, regret_of_selected=None),
]  # fmt: skip


@pytest.mark.usefixtures("one_thread")
def test_a_run_ranks_selects_and_is_kept(tmp_path, monkeypatch):
    keys = ["".join(map(str, choices)) for choices in product(range(3), repeat=8)][::2]
    table = tmp_path / "table.json"
    table.write_text(json.dumps({key: 50 + index / 100 for index, key in enumerate(keys)}))
    run = tmp_path / "runs" / "nas-bench-macro" / "spos-3"
    search = SearchSettings(population=3, generations=2, method="evolution")
    assert comparison.measure(run, OPTIONS | {"truth": str(table)}, search) == 0
    (found,) = comparison.gather(tmp_path / "runs")
    assert (found["space"], found["method"], found["seed"]) == ("nas-bench-macro", "spos", 3)
    ranking = json.loads((run / "ranking.json").read_text())["runs"][0]
    assert found["kendall_tau"] == ranking["kendall_tau_by_loss"]
    assert found["seconds"] > ranking["seconds"] > 0
    assert found["peak_megabytes"] > 100  # torch alone takes as much
    assert found["considered"] == 6
    if found["selected_is_known"]:
        assert found["truth_of_selected"] == 50 + keys.index(found["selected"][0]) / 100
    if found["truth_of_selected"] is not None:
        assert found["truth_of_selected"] + found["regret_of_selected"] == pytest.approx(50 + (len(keys) - 1) / 100)
    monkeypatch.setattr(comparison, "rank_command", lambda *_: pytest.fail("a finished run was done again"))
    assert comparison.measure(run, OPTIONS, search) == 0


def test_the_table_and_the_picture_show_every_method_of_every_space():
    columns = {str(column.header): list(column.cells) for column in comparison.table_of(ENTRIES).columns}
    assert columns["space"] == ["a", "a", "b"]
    assert columns["method"] == ["kshot", "spos", "spos"]
    assert columns["Kendall's tau"] == ["0.500", "0.500 (0.200)", "0.500"]
    assert columns["true accuracy selected (%)"] == ["-", "90.00 (0.00)", "90.00"]
    assert columns["minutes"] == ["1.0", "1.0 (0.0)", "1.0"]
    panels = comparison.plot(ENTRIES).axes
    assert len(panels) == 2 * len(comparison.COLUMNS)
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["kshot", "spos"]
    widths = [bar.get_width() for axes in panels[:2] for bar in axes.patches]
    assert widths == [0.5, pytest.approx(0.5), 90.0]


def test_the_settings_of_all_runs_are_legal():
    config = read_toml(comparison.CONFIG)
    for space, method in product(("nas-bench-201", "nas-bench-macro"), command.known_methods("")):
        settings = gather_settings(RankSettings(), None, comparison.options_of(config, space, method))
        assert (settings.space, settings.method.name) == (space, method)
        assert settings.shots == {"kshot": 4, "few-shot": 3}.get(method, 1)
        assert settings.cells == (1 if space == "nas-bench-201" else None)


def test_each_run_is_a_process_of_its_own_and_one_that_fails_ends_no_other(tmp_path, monkeypatch, capsys):
    done = []

    def apart(place, options):
        done.append((place, options["truth"]))
        return 2 if place.name == "spos-0" else 0

    monkeypatch.setattr(command, "measured_apart", apart)
    with pytest.raises(typer.Exit) as ended:
        command.run(["s=a.json", "t=b.json"], tmp_path, seeds="0-1", methods="spos,kshot")
    assert ended.value.exit_code == 1
    names = ["spos-0", "kshot-0"], ["spos-1", "kshot-1"]
    tables = {"s": "a.json", "t": "b.json"}
    assert done == [(tmp_path / space / name, tables[space]) for row in names for space in tables for name in row]
    assert capsys.readouterr().err.count("spos-0") == 2
    for wrong in ("luck", "spos,luck"):
        with pytest.raises(typer.BadParameter, match=r"expected some of kshot, .*, got luck"):
            command.known_methods(wrong)
    with pytest.raises(typer.BadParameter, match="expected SPACE=FILE, got table"):
        command.space_and_table("table")


def test_a_measurement_gets_what_it_takes_and_its_numbers_are_written(tmp_path, monkeypatch):
    calls = []

    def run(seeds, quick, data=None):
        calls.append((seeds, quick, data))
        return {"gain": 0.25}

    monkeypatch.setattr(command, "measurement_of", lambda name: run)
    file = tmp_path / "new" / "spos.json"
    command.observable("spos", data=tmp_path, seeds="0,2", quick=True, results=file)
    assert calls == [([0, 2], True, tmp_path)]
    assert json.loads(file.read_text()) == {"gain": 0.25}
    with pytest.raises(typer.BadParameter, match="spos: its measurement needs no truth"):
        command.observable("spos", truth=tmp_path, results=file)
    monkeypatch.undo()
    with pytest.raises(typer.BadParameter, match=r"expected one of .*, got __main__"):
        command.measurement_of("__main__")
