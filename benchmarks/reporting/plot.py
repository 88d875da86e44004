"""Plots of results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measuring.timing import Ratio
from benchmarks.reporting.results import Part


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(temporary, dpi=120, format="png", bbox_inches="tight")
    os.replace(temporary, path)


def plot_speedups(parts: Sequence[Part], path: Path) -> None:
    """One panel per work and layer set: the speedup of each row, sorted, with quartiles, for each rival."""
    columns = min(3, len(parts))
    lines = -(-len(parts) // columns)
    figure = Figure(figsize=(6 * columns, 4 * lines))
    for index, part in enumerate(parts, start=1):
        axes = figure.add_subplot(lines, columns, index)
        for label in dict.fromkeys(label for row in part.rows for label in row.rivals):
            _plot_rival(axes, label, [row.rivals[label].speedup for row in part.rows if label in row.rivals])
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(part.title)
        axes.set_xlabel("rows, sorted")
        axes.set_ylabel("rival's time / ours")
        axes.legend()
    save_figure(figure, path)


def _plot_rival(axes: Axes, label: str, speedups: list[Ratio]) -> None:
    speedups = sorted(speedups, key=lambda speedup: speedup.median)
    medians = [speedup.median for speedup in speedups]
    below = [speedup.median - speedup.low for speedup in speedups]
    above = [speedup.high - speedup.median for speedup in speedups]
    axes.errorbar(range(len(medians)), medians, yerr=[below, above], fmt=".", elinewidth=0.8, label=label)
