"""Whether K copies rank architectures better than one: `python -m benchmarks.ranking`.

Gathers the runs that `kshot-ext rank --config benchmarks/ranking.toml --results benchmarks/results/ranking.json` left.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.compare import RESULTS
from benchmarks.reporting.plot import save_figure
from kshot_ext.nas.files import write_text
from kshot_ext.nas.runs.results_file import read_results
from kshot_ext.nas.strict_json import strict_json

Run = Mapping[str, Any]

_TAUS = {"kendall_tau": "by accuracy", "kendall_tau_by_loss": "by loss"}


@dataclass(frozen=True)
class Gain:
    """A number of K copies above that of one copy, over runs of equal seeds and as many steps.

    Args:
        steps: of all these runs.
        seeds: of which there is a run with either.
        mean: mean difference.
        standard_error: of the mean; None with a single seed.
    """

    steps: int
    seeds: tuple[int, ...]
    mean: float
    standard_error: float | None


def by_shots(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """Runs of each K, in the order of their steps and seeds."""
    ordered = sorted(runs, key=lambda run: (run["shots"], run["steps"], run["seed"]))
    return {shots: list(group) for shots, group in groupby(ordered, key=lambda run: run["shots"])}


def gains(runs: Sequence[Run], shots: int, number: str) -> list[Gain]:
    """Gains of `shots` copies in a number of the runs, one for each count of steps that runs of both have."""
    differences: dict[int, dict[int, float]] = defaultdict(dict)  # by steps, then by seed
    with_one = {(run["steps"], run["seed"]): run[number] for run in runs if run["shots"] == 1}
    for run in by_shots(runs).get(shots, []):
        steps, seed = run["steps"], run["seed"]
        if (steps, seed) in with_one:
            differences[steps][seed] = run[number] - with_one[steps, seed]
    return [Gain(steps, tuple(found), *mean_and_error(list(found.values()))) for steps, found in differences.items()]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error if there are several."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.mean(values), error


def add_gathered(results: Path, gathered: Sequence[Run], names: Sequence[str]) -> None:
    """Write gathered runs to a file of results; what it holds of other runs stays, as their folders may be elsewhere.

    Args:
        results: the file; made if it is missing.
        gathered: the runs.
        names: what tells one run from another, such as its side and seed; the file is in their order.
    """

    def key(run: Run) -> tuple[Any, ...]:
        return tuple(run[name] for name in names)

    runs = {key(run): run for run in (*read_results(results), *gathered)}
    write_text(results, strict_json({"runs": [runs[one] for one in sorted(runs)]}, indent=1) + "\n")


def run_table(runs: Sequence[Run]) -> Table:
    """A line for each run."""
    table = Table(title="Ranking against the published table")
    columns = {
        "K": "{shots}",
        "seed": "{seed}",
        "steps": "{steps:,}",
        "tau": "{kendall_tau:.3f}",
        "rho": "{spearman_rho:.3f}",
        "regret": "{regret:.2f}",
        "tau by loss": "{kendall_tau_by_loss:.3f}",
        "code distance": "{code_distance:.2f}",
        "least share": "{min_entry_share:.3f}",
        "minutes": "{minutes:.0f}",
    }
    for column in columns:
        table.add_column(column, justify="right")
    for group in by_shots(runs).values():
        for run in group:
            table.add_row(*(text.format(**run, minutes=run["seconds"] / 60) for text in columns.values()))
        table.add_section()
    return table


def plot(runs: Sequence[Run]) -> Figure:
    """Kendall's tau over steps, a line for each run and a colour for each K."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, len(_TAUS), sharey=True)
    for axes, (number, title) in zip(panels, _TAUS.items()):
        for index, (shots, group) in enumerate(by_shots(runs).items()):
            for run in group:
                steps, taus = zip(*((point["steps"], point[number]) for point in run["curve"]))
                label = f"K = {shots}" if run is group[0] else None
                axes.plot(steps, taus, color=f"C{index}", marker="o", markersize=4, alpha=0.8, label=label)
        axes.set_title(title)
        axes.set_xlabel("dictionary steps")
    panels[0].set_ylabel("Kendall's tau")
    panels[0].legend(frameon=False)
    return figure


def main(
    results: Annotated[Path, typer.Option(help="File of results.")] = RESULTS / "ranking.json",
    out: Annotated[Path, typer.Option(help="Plot.")] = RESULTS / "ranking.png",
) -> None:
    """Print all runs and what several copies gain over one, and plot them."""
    runs = read_results(results)
    if not runs:
        raise typer.BadParameter(f"{results}: expected runs of kshot-ext rank, got none")
    console = Console()
    console.print(run_table(runs))
    for shots, (number, title) in product(by_shots(runs), _TAUS.items()):
        for found in gains(runs, shots, number) if shots > 1 else ():
            error = "" if found.standard_error is None else f", standard error {found.standard_error:.3f}"
            seeds = ", ".join(map(str, found.seeds))
            compared = f"K = {shots} above K = 1 after {found.steps:,} steps, seeds {seeds}"
            console.print(f"{compared}: tau {title} {found.mean:+.3f}{error}", soft_wrap=True)
    save_figure(plot(runs), out)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
