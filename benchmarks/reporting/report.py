"""Tables of results."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.measuring.timing import NOISE_LIMIT, Ratio
from benchmarks.reporting.results import Part
from benchmarks.reporting.targets import Reached


def row_table(part: Part) -> Table:
    """Every row of a part, a line for each rival."""
    table = Table(title=f"{part.title}: forward + backward, {part.pairs} interleaved pairs")
    for column in ("row", "geometry", "x"):
        table.add_column(column, overflow="fold")
    for column in ("ours, ms", "rival", "rival, ms", "speedup (quartiles)", "peak, MB: ours / rival"):
        table.add_column(column, justify="left" if column == "rival" else "right", overflow="fold")
    for row in part.rows:
        head = (row.name, row.geometry, str(row.count), _milliseconds(row.ours.seconds))
        for label, rival in row.rivals.items():
            memory = f"{_megabytes(row.ours.peak_bytes)} / {_megabytes(rival.best.peak_bytes)}"
            name = f"{label}: {rival.best.form}"
            table.add_row(*head, name, _milliseconds(rival.best.seconds), _ratio(rival.speedup), memory)
            head = ("", "", "", "")
        table.add_section()
    return table


def target_table(reached: Sequence[Reached]) -> Table:
    """Targets beside what was reached."""
    table = Table(title="Geometric means of speedups (rival's time / ours)")
    for column in ("target", "layer set"):
        table.add_column(column, overflow="fold")
    for column in ("to reach", "reached", "weighted", "slowest row", "memory, ours / rival", "met"):
        table.add_column(column, justify="right")
    for line in reached:
        target = line.target
        color = "green" if line.met else "red"
        table.add_row(
            target.title,
            line.part.where,
            f">= {target.speedup:.2f}",
            f"[{color}]{line.speedup:.2f}[/]",
            f"{line.weighted:.2f}",
            f"{line.worst:.2f}{_limit(target.worst, '>=')} {line.worst_row}",
            "-" if line.memory is None else f"{line.memory:.2f}{_limit(target.memory, '<=')}",
            "yes" if line.met else "no",
        )
    return table


def noise_line(noise: Ratio) -> str:
    """What a workload measured against itself gave, and whether that is too much."""
    line = f"noise: a workload against itself {_ratio(noise)}, spread {noise.spread:.1%}"
    return f"[red]machine was noisy; {line}[/]" if noise.spread > NOISE_LIMIT else line


def _limit(limit: float | None, sign: str) -> str:
    return "" if limit is None else f" ({sign} {limit:.2f})"


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.3g}"
