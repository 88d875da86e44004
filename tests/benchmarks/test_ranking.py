"""What ranking runs gain by K copies, and their table and plot."""

import pytest
import typer

from benchmarks.ranking import Gain, add_gathered, by_shots, gains, main, plot, run_table
from kshot_ext.nas.runs.results_file import add_result, read_results


def run(shots, seed, tau):
    return {
        "run": f"{shots} {seed}", "shots": shots, "seed": seed, "steps": 1200, "kendall_tau": tau, "spearman_rho": 0.7,
        "regret": 1.5, "kendall_tau_by_loss": tau + 0.01 * shots, "code_distance": 0.2, "min_entry_share": 0.1,
        "seconds": 600.0,
        "curve": [
            {"steps": 600, "kendall_tau": tau - 0.1, "kendall_tau_by_loss": tau - 0.2},
            {"steps": 1200, "kendall_tau": tau, "kendall_tau_by_loss": tau + 0.01 * shots},
        ],
    }  # fmt: skip


RUNS = [run(8, 1, 0.75), run(1, 0, 0.5), run(8, 0, 0.6), run(1, 1, 0.6), run(8, 5, 0.9)]


def test_gains_are_taken_over_equal_seeds_and_steps():
    (found,) = gains(RUNS, 8, "kendall_tau")
    assert (found.steps, found.seeds) == (1200, (0, 1))  # 0.1 and 0.15
    assert (found.mean, found.standard_error) == (pytest.approx(0.125), pytest.approx(0.025))
    assert gains(RUNS, 8, "kendall_tau_by_loss")[0].mean == pytest.approx(0.195)
    longer = [{**run(shots, 0, tau), "steps": 2400} for shots, tau in ((8, 0.7), (1, 0.4))]
    assert gains([*longer, *RUNS], 8, "kendall_tau") == [found, Gain(2400, (0,), pytest.approx(0.3), None)]
    assert gains([run(1, 0, 0.5), run(4, 1, 0.4), longer[0]], 4, "kendall_tau") == []


def test_runs_are_shown_by_copies_and_seed():
    assert [(shots, [found["seed"] for found in group]) for shots, group in by_shots(RUNS).items()] == [
        (1, [0, 1]),
        (8, [0, 1, 5]),
    ]
    columns = {str(column.header): list(column.cells) for column in run_table(RUNS).columns}
    assert columns["tau"] == ["0.500", "0.600", "0.600", "0.750", "0.900"]
    assert columns["minutes"] == ["10"] * 5
    assert columns["tau by loss"] == ["0.510", "0.610", "0.680", "0.830", "0.980"]
    by_accuracy, by_loss = plot(RUNS).axes
    assert list(by_accuracy.lines[0].get_ydata()) == [0.4, 0.5]
    assert [list(line.get_ydata())[-1] for line in by_accuracy.lines] == [0.5, 0.6, 0.6, 0.75, 0.9]
    assert list(by_loss.lines[0].get_ydata()) == [0.3, 0.51]
    assert [text.get_text() for text in by_accuracy.get_legend().get_texts()] == ["K = 1", "K = 8"]


def test_command(tmp_path, capsys):
    results, out = tmp_path / "ranking.json", tmp_path / "ranking.png"
    with pytest.raises(typer.BadParameter, match="expected runs of kshot-ext rank, got none"):
        main(results, out)
    for entry in RUNS:
        add_result(results, entry)
    main(results, out)
    printed = capsys.readouterr().out
    for tau in ("tau by accuracy +0.125", "tau by loss +0.195"):
        assert f"K = 8 above K = 1 after 1,200 steps, seeds 0, 1: {tau}, standard error 0.025\n" in printed
    assert out.read_bytes().startswith(b"\x89PNG")


def test_gathered_runs_join_those_of_the_file(tmp_path):
    file = tmp_path / "results.json"
    kept = {"run": "a", "side": "one", "seed": 10, "tau": 0.1}
    again = {"run": "b", "side": "one", "seed": 2, "tau": 0.2}
    add_gathered(file, [kept, again], ("side", "seed"))
    assert read_results(file) == [again, kept]  # in the order of numbers
    more = {"run": "d", "side": "count", "seed": 2, "tau": 0.4}
    add_gathered(file, [again | {"run": "c", "tau": 0.3}, more], ("side", "seed"))
    assert [run["run"] for run in read_results(file)] == ["d", "c", "a"]
