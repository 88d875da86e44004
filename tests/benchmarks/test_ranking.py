"""What ranking runs gain by K copies, and their table and plot."""

import pytest
import typer

from benchmarks.ranking import by_shots, gain, main, plot, run_table
from kshot_ext.nas.runs.results_file import add_result


def run(shots, seed, tau):
    return {
        "run": f"{shots} {seed}", "shots": shots, "seed": seed, "steps": 1200, "kendall_tau": tau, "spearman_rho": 0.7,
        "regret": 1.5, "code_distance": 0.2, "min_entry_share": 0.1, "seconds": 600.0,
        "curve": [{"steps": 600, "kendall_tau": tau - 0.1}, {"steps": 1200, "kendall_tau": tau}],
    }  # fmt: skip


RUNS = [run(8, 1, 0.75), run(1, 0, 0.5), run(8, 0, 0.6), run(1, 1, 0.6), run(8, 5, 0.9)]


def test_gain_is_taken_over_equal_seeds():
    found = gain(RUNS, 8)
    assert found.seeds == (0, 1)  # 0.1 and 0.15
    assert (found.mean, found.standard_error) == (pytest.approx(0.125), pytest.approx(0.025))
    assert gain([run(1, 0, 0.5), run(4, 0, 0.4)], 4).standard_error is None
    assert gain([run(1, 0, 0.5), run(4, 1, 0.4)], 4) is None


def test_runs_are_shown_by_copies_and_seed():
    assert [(shots, [found["seed"] for found in group]) for shots, group in by_shots(RUNS).items()] == [
        (1, [0, 1]),
        (8, [0, 1, 5]),
    ]
    columns = {str(column.header): list(column.cells) for column in run_table(RUNS).columns}
    assert columns["tau"] == ["0.500", "0.600", "0.600", "0.750", "0.900"]
    assert columns["minutes"] == ["10"] * 5
    (axes,) = plot(RUNS).axes
    assert [list(line.get_ydata())[-1] for line in axes.lines] == [0.5, 0.6, 0.6, 0.75, 0.9]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["K = 1", "K = 8"]


def test_command(tmp_path, capsys):
    results, out = tmp_path / "ranking.json", tmp_path / "ranking.png"
    with pytest.raises(typer.BadParameter, match="expected runs of kshot-ext rank, got none"):
        main(results, out)
    for entry in RUNS:
        add_result(results, entry)
    main(results, out)
    assert "tau of K = 8 above K = 1: +0.125, standard error 0.025, seeds (0, 1)" in capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG")
