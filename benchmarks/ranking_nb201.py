"""What K copies gain over one on NAS-Bench-201, and why: `python -m benchmarks.ranking_nb201 train` and `... show`.

A *side* is a way of forming codes. All sides of a seed share the first half of the training, which a run of one copy
does: the same paths and batches, and most of the luck. Differences are paired by seed. A *trial* is what sides are
compared in: how large the network is, how long it trains, and on which table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.compare import RESULTS
from benchmarks.ranking import add_gathered, mean_and_error
from benchmarks.reporting.plot import save_figure
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.files import read_json, write_text
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.ranking.rank_correlation import kendall_tau, rank_correlation
from kshot_ext.nas.ranking.rank_job import RankJob
from kshot_ext.nas.runs.results_file import read_results
from kshot_ext.nas.runs.run_folder import RunRecord
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.tables import read_toml

CONFIG = Path(__file__).with_name("ranking_nb201.toml")
SIDES = Path(__file__).with_name("ranking_nb201_sides.toml")
TRIALS = Path(__file__).with_name("ranking_nb201_trials.toml")
ONE = "one"
"""The side of one copy, which all others are compared with."""

_NUMBERS = {
    "tau": "kendall_tau",
    "better half": "kendall_tau_better_half",
    "better quarter": "kendall_tau_better_quarter",
    "favourite": "truth_of_favourite",
    "best of ten": "best_truth_of_ten",
    "mean of ten": "mean_truth_of_ten",
    "equal cost": "kendall_tau_equal_cost",
}

_WIDTH = 160  # of tables that go to a file or a pipe

_FOUND = "found.json"
_SEARCHED = {"found": "truth_of_found", "best of ten found": "best_truth_of_found"}

app = typer.Typer(help=__doc__, add_completion=False)


@dataclass(frozen=True)
class Difference:
    """A side above one copy, over the seeds of which there is a run of either.

    Args:
        mean: mean difference.
        standard_error: of the mean; None with a single seed.
        count: number of seeds.
    """

    mean: float
    standard_error: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f}" + ("" if self.standard_error is None else f" ({self.standard_error:.3f})")


def seeds_of(text: str) -> list[int]:
    """Seeds from a text such as ``0-4`` or ``0,3``.

    Example:
        >>> seeds_of("0-2,7")
        [0, 1, 2, 7]
    """
    parts = [part.partition("-") for part in text.split(",")]
    return [seed for first, _, last in parts for seed in range(int(first), int(last or first) + 1)]


@dataclass(frozen=True)
class Side:
    """A way of forming codes.

    Args:
        name: its name.
        settings: what its runs have besides the trial's settings.
        base: the side of one copy whose warm-up it shares; its own name for such a side.
    """

    name: str
    settings: Mapping[str, Any]
    base: str

    @classmethod
    def read(cls) -> dict[str, Side]:
        """All sides by name, in the order of their file."""
        return {name: cls.of(name, dict(table)) for name, table in read_toml(SIDES).items()}

    @classmethod
    def of(cls, name: str, table: dict[str, Any]) -> Side:
        """A side from its table in the file."""
        return cls(name, table, table.pop("base", name if table["shots"] == 1 else ONE))


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested tables in one; the other's values count where both have some.

    Example:
        >>> merged({"cells": 1, "training": {"epochs": 3}}, {"training": {"seed": 0}})
        {'cells': 1, 'training': {'epochs': 3, 'seed': 0}}
    """
    return {**one, **{k: merged(one[k], v) if isinstance(v, dict) and k in one else v for k, v in other.items()}}


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="CIFAR-10's training images: an image folder or a zip of one.")],
    truth: Annotated[Path, typer.Option(help="NAS-Bench-201's table.")],
    runs: Annotated[Path, typer.Option(help="Folder of the trials' run folders; finished runs are not done again.")],
    seeds: Annotated[str, typer.Option(help="Such as 0-4 or 0,3.")] = "0-4",
    sides: Annotated[str, typer.Option(help="Names from ranking_nb201_sides.toml; default: all.")] = "",
    trial: Annotated[str, typer.Option(help="A name from ranking_nb201_trials.toml.")] = "one-cell",
    config: Annotated[Path, typer.Option(help="Settings that all runs have.")] = CONFIG,
) -> None:
    """Train and rank each side with each seed, one after the other; several processes may share the work by seeds."""
    known, trials = Side.read(), read_toml(TRIALS)
    wanted = sides.split(",") if sides else list(known)
    _check_known("sides", wanted, known)
    _check_known("trial", [trial], trials)
    folder = runs / trial
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds_of(seeds):
        for side in (known[name] for name in with_bases(wanted, known)):
            run = folder / f"{side.name}-{seed}"
            if (run / "ranking.json").exists():
                continue
            own = {"data": str(data), "truth": str(truth), "seed": seed, "out": str(run)}
            base = folder / f"{side.base}-{seed}"
            own |= {"keep_warm_up": True} if base == run else {"warm_up": str(base)}
            begun = (run / "run.json").exists()
            options = {} if begun else merged(merged(trials[trial], side.settings), own)
            status = rank_command(options, None if begun else config, run if begun else None)
            if status != 0:
                raise typer.Exit(status)


def with_bases(wanted: Sequence[str], known: Mapping[str, Side]) -> list[str]:
    """The wanted sides, one copy first, and each after its base."""
    return list(dict.fromkeys([ONE, *(name for side in wanted for name in (known[side].base, side))]))


def _check_known(option: str, wanted: Sequence[str], known: Mapping[str, Any]) -> None:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise typer.BadParameter(f"{option}: expected some of {', '.join(known)}, got {', '.join(unknown)}")


@app.command()
def search(
    runs: Annotated[Path, typer.Option(help="Folder of the trials' run folders; each run is searched once.")],
    sides: Annotated[str, typer.Option(help="Names of the sides to search with.")],
    seeds: Annotated[str, typer.Option(help="Such as 0-4 or 0,3.")] = "0-4",
    trial: Annotated[str, typer.Option(help="A name from ranking_nb201_trials.toml.")] = "one-cell",
    budget: Annotated[str, typer.Option(help="Most multiply-accumulates; see kshot-ext search.")] = "60%",
    generations: Annotated[int, typer.Option(help="Of evolution, of 20 networks each.")] = 15,
) -> None:
    """Search with finished runs' supernets, by their held-out loss under a budget, and look up what they found."""
    for seed, side in product(seeds_of(seeds), sides.split(",")):
        run = runs / trial / f"{side}-{seed}"
        if not (run / _FOUND).exists():
            found = search_run(RunRecord(run), budget, SearchSettings(generations=generations, method="evolution"))
            write_text(run / _FOUND, strict_json(found, indent=1) + "\n")
            typer.echo(f"{run.name}: {found}")


def search_run(record: RunRecord, budget: str, settings: SearchSettings) -> dict[str, Any]:
    """What a search with a run's supernet finds; of the ten best networks, those that the table knows.

    Returns:
        The architectures evaluated, the number of the ten best in the table, and their truth: of the best-ranked one
        there (``truth_of_found``), and the best (``best_truth_of_found``); None if there is none.
    """
    silent = ConsoleProgress(Console(quiet=True))
    _, splits = load_data(record.settings, silent, {Part.VALIDATION: record.settings.held_out})
    job = RankJob(record.settings, splits)
    job.loop.load_state_dict(record.load_checkpoint("supernet").state)
    limits = SearchLimits(Budget.parse(budget).max_macs(job.space))
    archive = Archive(job.evaluation, job.space, limits, job.generator("search of the benchmark"))
    search = Generations(archive, settings)
    while not search.finished:
        search.step()
    best = archive.best_first()[:10]
    truths = [job.truth[result.architecture] for result in best if result.architecture in job.truth]
    return {
        "evaluated": len(archive),
        "in_the_table": len(truths),
        "truth_of_found": truths[0] if truths else None,
        "best_truth_of_found": max(truths, default=None),
        "best_of_the_table": max(truth for path, truth in job.truth.items() if limits.admit(job.space, path)),
    }


@app.command()
def show(
    runs: Annotated[Path | None, typer.Option(help="Folder of the trials' run folders to gather first.")] = None,
    results: Annotated[Path, typer.Option(help="File of results.")] = RESULTS / "ranking_nb201.json",
    out: Annotated[Path, typer.Option(help="Plot.")] = RESULTS / "ranking_nb201.png",
) -> None:
    """Gather the runs' numbers beside those of the file, print what each side gains over one copy, and plot it."""
    if runs is not None:
        add_gathered(results, gather(runs), ("trial", "side", "seed"))
    entries = read_results(results)
    if not any(entry["side"] == ONE for entry in entries):
        raise typer.BadParameter(f"{results}: expected runs of one copy and of others, got {len(entries)} runs")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(mean_table(entries, _NUMBERS, "NAS-Bench-201, by held-out loss: means over seeds"))
    console.print(difference_table(entries, _NUMBERS, "Above one copy, paired by seed (standard error)"))
    searched = [entry for entry in entries if all(entry.get(name) is not None for name in _SEARCHED.values())]
    if searched:
        console.print(mean_table(searched, _SEARCHED, "What searches under the budget found"))
        console.print(difference_table(searched, _SEARCHED, "The same above one copy"))
    save_figure(plot(entries), out)
    console.print(f"wrote {out}")


def gather(runs: Path) -> list[dict[str, Any]]:
    """An entry for each finished run in the trials' folders."""
    entries, spaces = [], {trial: space_of(trial) for trial in read_toml(TRIALS)}
    for path in sorted(path.parent for path in runs.glob("*/*/ranking.json")):
        side, _, seed = path.name.rpartition("-")
        (run,) = read_results(path / "ranking.json")
        evaluated = read_json(path / "evaluated.json")
        scores = [-math.inf if item["loss"] is None else -item["loss"] for item in evaluated]
        truth, space = [item["truth"] for item in evaluated], spaces[path.parent.name]
        macs = [space.count_macs(Architecture(tuple(map(int, item["architecture"])))) for item in evaluated]
        ranking = asdict(rank_correlation(truth, scores, macs))
        kept = ("steps", "shots", "architectures", "code_distance", "min_entry_share", "seconds")
        numbers = {name: run[name] for name in kept} | {name: ranking[name] for name in _NUMBERS.values()}
        found = read_json(path / _FOUND) if (path / _FOUND).exists() else {}
        names = {"run": run["run"], "trial": path.parent.name, "side": side, "seed": int(seed)}
        entries.append(names | numbers | {"kendall_tau_of_macs": kendall_tau(truth, macs)} | found)
    return entries


def space_of(trial: str) -> SearchSpace:
    """The space of a trial's runs."""
    settings = merged(read_toml(CONFIG), read_toml(TRIALS)[trial])
    side = settings["image_size"]
    return create_space(
        settings["space"],
        image_shape=(3, side, side),
        num_classes=10,
        channels=settings["channels"],
        cells=settings.get("cells"),
    )


def by_side(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[int, Mapping[str, Any]]]:
    """Runs by trial and side, in the order of their files; then by seed."""
    trials, sides = list(read_toml(TRIALS)), list(Side.read())

    def rank(entry: Mapping[str, Any]) -> tuple[int, int, int]:
        return trials.index(entry["trial"]), sides.index(entry["side"]), entry["seed"]

    groups: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for entry in sorted(entries, key=rank):
        groups.setdefault((entry["trial"], entry["side"]), {})[entry["seed"]] = entry
    return groups


def label(key: tuple[str, str], groups: Collection[tuple[str, str]]) -> str:
    """What to call a side of a trial: by its trial, too, where there are several.

    Example:
        >>> label(("one-cell", "one"), {("one-cell", "one")}), label(("a", "one"), {("a", "one"), ("b", "one")})
        ('one', 'a: one')
    """
    trial, side = key
    return f"{trial}: {side}" if len({trial for trial, _ in groups}) > 1 else side


def difference(
    ours: Mapping[int, Mapping[str, Any]], one: Mapping[int, Mapping[str, Any]], number: str
) -> Difference | None:
    """A number of one side's runs above that of one copy's, by seed; None without a seed that both have."""
    found = [run[number] - one[seed][number] for seed, run in ours.items() if seed in one]
    if not found:
        return None
    return Difference(*mean_and_error(found), len(found))


def mean_table(entries: Sequence[Mapping[str, Any]], shown: Mapping[str, str], title: str) -> Table:
    """Means over seeds of some numbers, a line for each side."""
    table = Table(title=title)
    for column in ("side", "steps", "seeds", *shown, "distance", "least share", "minutes"):
        table.add_column(column, justify="left" if column == "side" else "right")
    groups = by_side(entries)
    for key, group in groups.items():
        numbers = [*shown.values(), "code_distance", "min_entry_share"]
        means = [statistics.mean(run[number] for run in group.values()) for number in numbers]
        minutes = statistics.mean(run["seconds"] for run in group.values()) / 60
        steps = f"{next(iter(group.values()))['steps']:,}"
        table.add_row(label(key, groups), steps, str(len(group)), *(f"{mean:.3f}" for mean in means), f"{minutes:.0f}")
    return table


def difference_table(entries: Sequence[Mapping[str, Any]], shown: Mapping[str, str], title: str) -> Table:
    """What each side gains over one copy, with the standard error."""
    table = Table(title=title)
    for column in ("side", "seeds", *shown):
        table.add_column(column, justify="left" if column == "side" else "right")
    groups = by_side(entries)
    for (trial, side), group in groups.items():
        found = [difference(group, groups.get((trial, ONE), {}), number) for number in shown.values()]
        if side != ONE and None not in found:
            table.add_row(label((trial, side), groups), str(found[0].count), *map(str, found))
    return table


def plot(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Differences to one copy with their standard errors, a panel for each number that counts."""
    groups = by_side(entries)
    sides = [(trial, side) for trial, side in groups if side != ONE and (trial, ONE) in groups]
    shown = ("tau", "better half", "best of ten")
    figure = Figure(figsize=(12, 1.2 + 0.3 * len(sides)), layout="constrained")
    for axes, title in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown):
        for row, (trial, side) in enumerate(sides):
            ours, one, number = groups[trial, side], groups[trial, ONE], _NUMBERS[title]
            each = [run[number] - one[seed][number] for seed, run in ours.items() if seed in one]
            found = difference(ours, one, number)
            if found is not None:
                axes.plot(each, [row] * len(each), ".", color="0.7")
                axes.errorbar(found.mean, row, xerr=found.standard_error or 0, fmt="o", color="C0")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(f"{title}, above one copy")
    figure.axes[0].set_yticks(range(len(sides)), [label(key, groups) for key in sides])
    figure.axes[0].invert_yaxis()
    return figure


if __name__ == "__main__":
    app()
