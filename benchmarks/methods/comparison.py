"""All search methods on one task, as numbers, a table and a picture.

A run trains a method's supernet, ranks architectures of a published table by it, and lets the method select. So for
each method there is how well it ranks, the true accuracy of what it selects, and how far that is below the best of the
table (regret); besides, what it took.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.ranking import mean_and_error
from benchmarks.ranking_nb201 import merged
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.files import read_json, write_text
from kshot_ext.nas.methods.selection import Selection, SelectionTools
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.ranking.rank_job import RankJob
from kshot_ext.nas.runs.results_file import read_results
from kshot_ext.nas.runs.run_folder import RunRecord
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.strict_json import strict_json

CONFIG = Path(__file__).with_name("comparison.toml")
SEARCH = SearchSettings(population=20, generations=10, method="evolution")
"""Of methods that search when they have trained; there is no budget."""

_SELECTED = "selected.json"
_MEGABYTE = 1024  # kilobytes, in which the system counts

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A number of the table.

    Args:
        title: what it is called.
        number: its name in an entry.
        digits: after the point.
        scale: what it is multiplied with.
    """

    title: str
    number: str
    digits: int
    scale: float = 1.0


COLUMNS = (
    Column("Kendall's tau", "kendall_tau", 3),
    Column("true accuracy selected (%)", "truth_of_selected", 2),
    Column("regret (points)", "regret_of_selected", 2),
    Column("minutes", "seconds", 1, 1 / 60),
    Column("peak memory (MB)", "peak_megabytes", 0),
)


def options_of(config: Mapping[str, Any], space: str, method: str) -> dict[str, Any]:
    """The settings of a method's runs in a space: those of all runs, of the space, and of the method.

    Example:
        >>> config = {"shots": 1, "spaces": {"a": {"cells": 1}}, "methods": {"kshot": {"shots": 4}}}
        >>> options_of(config, "a", "kshot")
        {'shots': 4, 'cells': 1, 'space': 'a', 'method': {'name': 'kshot'}}
    """
    common = {name: value for name, value in config.items() if name not in ("spaces", "methods")}
    for kind, name in (("spaces", space), ("methods", method)):
        common = merged(common, config.get(kind, {}).get(name, {}))
    return merged(common, {"space": space, "method": {"name": method}})


def measure(run: Path, options: Mapping[str, Any], search: SearchSettings = SEARCH) -> int:
    """Do a run, or what is left of it, and let its method select; the peak memory is that of this process.

    Args:
        run: its folder; a finished run is left as it is.
        options: settings of ``kshot-ext rank``.
        search: of methods that search.

    Returns:
        Exit status of the ranking.
    """
    if (run / _SELECTED).exists():
        return 0
    begun = (run / "run.json").exists()
    status = rank_command({} if begun else {**options, "out": str(run)}, None, run if begun else None)
    if status == 0:
        selected = select(RunRecord(run), search)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MEGABYTE
        write_text(run / _SELECTED, strict_json(selected | {"peak_megabytes": peak}, indent=1) + "\n")
    return status


def select(record: RunRecord, search: SearchSettings) -> dict[str, Any]:
    """What the method of a finished ranking selects, and what the table says of it.

    The table knows some architectures only: where it does not know what is selected, the best considered counts that
    it knows (``selected_is_known`` tells); ``truth_of_selected`` is None if it knows none.
    """
    silent = ConsoleProgress(Console(quiet=True))
    _, splits = load_data(record.settings, silent, {Part.VALIDATION: record.settings.held_out})
    job = RankJob(record.settings, splits)
    job.loop.load_state_dict(record.load_checkpoint("supernet").state)
    begin = time.perf_counter()
    generator = job.generator("selection of the benchmark")
    archive = Archive(job.evaluation, job.method.result_space, SearchLimits(), generator)
    stage = job.method.selection(SelectionTools(archive=archive, settings=search, loop=job.loop))
    while stage.done < stage.total:
        stage.step(lambda position: None)
    selection = job.method.selected(stage)
    truth = next((job.truth[one] for one in _best_first(selection) if one in job.truth), None)
    best = max(job.truth.values())
    return {
        "selected": [architecture.short() for architecture in selection.architectures],
        "considered": len(selection.considered),
        "selected_is_known": selection.architectures[0] in job.truth,
        "truth_of_selected": truth,
        "regret_of_selected": None if truth is None else best - truth,
        "selection_seconds": time.perf_counter() - begin,
    }


def _best_first(selection: Selection) -> list[Architecture]:
    considered = sorted(selection.considered, key=lambda result: -result.merit)
    return [*selection.architectures, *(result.architecture for result in considered)]


def gather(runs: Path) -> list[dict[str, Any]]:
    """An entry for each finished run, by held-out loss, in the folders of the spaces."""
    entries = []
    for path in sorted(path.parent for path in runs.glob(f"*/*/{_SELECTED}")):
        method, _, seed = path.name.rpartition("-")
        (run,) = read_results(path / "ranking.json")
        selected = read_json(path / _SELECTED)
        numbers = {name.removesuffix("_by_loss"): value for name, value in run.items() if name.endswith("_by_loss")}
        kept = {name: run[name] for name in ("run", "steps", "shots", "architectures")}
        names = {"space": path.parent.name, "method": method, "seed": int(seed)}
        seconds = run["seconds"] + selected["selection_seconds"]
        entries.append(names | kept | numbers | selected | {"seconds": seconds})
    return entries


def grouped(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Runs by space and method."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry["space"], entry["method"], entry["seed"])):
        groups.setdefault((entry["space"], entry["method"]), []).append(entry)
    return groups


def values_of(group: Sequence[Entry], column: Column) -> list[float]:
    """A number of the runs of a method that have it."""
    return [column.scale * entry[column.number] for entry in group if entry[column.number] is not None]


def table_of(entries: Sequence[Entry]) -> Table:
    """A line for each method in each space: means over seeds, and standard errors."""
    table = Table(title="Search methods: means over seeds (standard error)")
    for title in ("space", "method", "K", "steps", "seeds", *(column.title for column in COLUMNS)):
        table.add_column(title, justify="left" if title in ("space", "method") else "right")
    space_before = None
    for (space, method), group in grouped(entries).items():
        if space_before not in (None, space):
            table.add_section()
        space_before = space
        numbers = (_shown(values_of(group, column), column.digits) for column in COLUMNS)
        steps = f"{statistics.mean(entry['steps'] for entry in group):,.0f}"
        table.add_row(space, method, str(group[0]["shots"]), steps, str(len(group)), *numbers)
    return table


def _shown(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" + ("" if error is None else f" ({error:.{digits}f})")


def plot(entries: Sequence[Entry]) -> Figure:
    """A row for each space, a panel for each number: a bar and dots of the single seeds for each method."""
    groups = grouped(entries)
    spaces = list(dict.fromkeys(space for space, _ in groups))
    methods = list(dict.fromkeys(method for _, method in groups))
    figure = Figure(figsize=(3.2 * len(COLUMNS), len(spaces) * (0.9 + 0.32 * len(methods))), layout="constrained")
    panels = figure.subplots(len(spaces), len(COLUMNS), squeeze=False, sharey=True)
    for space, row in zip(spaces, panels):
        for column, axes in zip(COLUMNS, row):
            for place, method in enumerate(methods):
                values = values_of(groups.get((space, method), []), column)
                if values:
                    axes.barh(place, statistics.mean(values), color=f"C{place % 10}", alpha=0.6)
                    axes.plot(values, [place] * len(values), ".", color="black", markersize=4)
            axes.set_title(column.title, fontsize=9)
        row[0].set_ylabel(space)
        row[0].set_yticks(range(len(methods)), methods)
        _zoom(row[1], [value for _, group in _in(groups, space) for value in values_of(group, COLUMNS[1])])
    panels[0][0].invert_yaxis()
    return figure


def _in(groups: Mapping[tuple[str, str], Sequence[Entry]], space: str) -> list[tuple[str, Sequence[Entry]]]:
    return [(method, group) for (place, method), group in groups.items() if place == space]


def _zoom(axes: Any, values: Sequence[float]) -> None:
    """True accuracies lie near each other, far from 0."""
    if values:
        margin = 0.2 * (max(values) - min(values)) or 1.0
        axes.set_xlim(min(values) - margin, max(values) + margin)
