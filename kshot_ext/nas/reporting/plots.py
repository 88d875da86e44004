"""The figures of a run."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import write_bytes
from kshot_ext.nas.messages import visible
from kshot_ext.nas.networks.code_report import LEAST_DISTANCE
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.search.pareto import Evaluated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8F98"
_OPERATION_COLOURS = ("#C9CED6", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#F0E442")
_LINES = (_BLUE, _GREEN, _ORANGE, _RED, _GREY)
_INK = "#24292F"
_SCORE_LABELS = {
    "loss": "validation loss in the supernet (nats)",
    "accuracy": "validation accuracy in the supernet (%)",
}
_WIDEST_CODES = 24
"""Inches; a figure of thousands of shots at full width is more pixels than can be drawn."""


def to_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> bytes:
    """Write a figure as PNG, atomically, and return the file's content."""
    content = to_png(figure)
    write_bytes(path, content)
    return content


@functools.cache
def rehearse() -> None:
    """Draw something, so that what keeps figures from being drawn shows before there is much to lose."""
    to_png(plot_curves({"line": [(1, 1.0), (2, 2.0)]}, "x", "y"))


def plot_losses(records: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Figure:
    """Draw training loss over epochs, one line per stage.

    Args:
        records: lines of ``metrics.jsonl``; those with a ``loss`` are drawn.
        titles: legend of each stage, by its name in the records.
    """
    curves = {
        title: [(r["step"], r["loss"]) for r in records if r["stage"] == stage and is_finite(r.get("loss"))]
        for stage, title in titles.items()
    }
    figure = plot_curves(curves, "epoch", "training loss")
    figure.axes[0].set_ylim(bottom=0)
    return figure


def plot_search(history: Sequence[Evaluated], front: Sequence[Evaluated], result: RunResult) -> Figure:
    """Draw the score that chose against multiply-accumulates: all evaluated, the Pareto front, the budget."""
    figure, axes = _figure(7, 4.6)
    dots = axes.scatter(*_points(history, result.score), c=range(1, len(history) + 1), cmap=_readable_blues(), s=22)
    figure.colorbar(dots, ax=axes, label="order of evaluation", pad=0.02).outline.set_visible(False)
    axes.plot(*_points(front, result.score), color=_ORANGE, linewidth=2, marker="o", markersize=5, label="Pareto front")
    axes.axvline(result.max_macs / 1e6, color=_RED, linestyle="--", linewidth=1.3, label="budget")
    for network, marker, colour in zip(result.networks, "*D", (_GREEN, _GREY)):
        height = _drawn(Scores(network.supernet_accuracy, network.supernet_loss), result.score)
        size = 260 if marker == "*" else 70
        axes.scatter(
            network.macs / 1e6,
            height,
            marker=marker,
            s=size,
            color=colour,
            edgecolor="white",
            label=network.title,
            zorder=3,
        )
    axes.set_xlabel("multiply-accumulates for one image (millions)")
    axes.set_ylabel(_SCORE_LABELS[result.score])
    figure.legend(frameon=False, loc="outside upper center", ncols=4)
    return figure


def plot_ranking(truth: Sequence[float], scores: Sequence[Scores], score: str, legend: str) -> Figure:
    """Draw a score in the supernet against the accuracy in the table, a dot per architecture.

    Args:
        truth: accuracies in the table, in its unit.
        scores: in the supernet; one without numbers is left out.
        score: ``"loss"`` or ``"accuracy"``.
        legend: what is said about them.
    """
    figure, axes = _figure(6, 4.6)
    axes.scatter(truth, [_drawn(each, score) for each in scores], s=16, color=_BLUE, alpha=0.6, label=legend)
    axes.set_xlabel("accuracy in the table")
    axes.set_ylabel(_SCORE_LABELS[score])
    figure.legend(frameon=False, loc="outside upper center")
    return figure


def plot_curves(curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> Figure:
    """Draw lines with a marker at each point.

    Args:
        curves: ``(x, y)`` pairs of each line, by its legend.
        x_label, y_label: of the axes.
    """
    figure, axes = _figure(7, 4)
    lines = []
    for index, (title, points) in enumerate(curves.items()):
        colour = _LINES[index % len(_LINES)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        lines += axes.plot(xs, ys, color=colour, label=plain(title), marker="o", markersize=3, linewidth=1.8)
    axes.xaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(integer=True))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(handles=lines, frameon=False)
    return figure


def plot_code_distances(curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str) -> Figure:
    """Draw mean distances of codes above 0 and beside the least of a K-shot run, so that near 0 looks near 0.

    Args:
        curves: ``(x, distance)`` pairs of each line, by its legend.
        x_label: of the axis.
    """
    figure = plot_curves(curves, x_label, "mean L1 distance of codes")
    (axes,) = figure.axes
    axes.axhline(LEAST_DISTANCE, color=_RED, linestyle="--", linewidth=1.3, label="least of a K-shot run")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def plot_codes(codes: Tensor, labels: Sequence[str]) -> Figure:
    """Draw simplex codes as a heat map: a row per architecture, a column per shot.

    A colour means the same coefficient in every run, so codes that hardly differ look alike.

    Args:
        codes: ``[M, K]``; or ``[M, L, K]``, of which the mean over the L layers is drawn.
        labels: name of each row.
    """
    per_layer = codes.dim() == 3
    codes = codes.mean(dim=1) if per_layer else codes
    rows, shots = codes.shape
    figure, axes = _figure(3.4 + min(0.6 * shots, _WIDEST_CODES), 1.2 + 0.2 * rows)
    image = axes.imshow(codes.numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1)
    ticks = range(0, shots, math.ceil(0.6 * shots / _WIDEST_CODES))
    axes.set_xticks(ticks, [str(shot + 1) for shot in ticks])
    axes.set_yticks(range(rows), list(map(plain, labels)), fontfamily="monospace", fontsize=8)
    axes.set_xlabel("shot (mean over the layers)" if per_layer else "shot")
    axes.set_ylabel("architecture, cheapest first")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label=f"coefficient (line: the equal share 1/{shots})", pad=0.03)
    bar.ax.axhline(1 / shots, color=_RED, linewidth=1.5)
    bar.outline.set_visible(False)
    return figure


def draw_architectures(networks: Sequence[RetrainedNetwork], operation_names: Sequence[str]) -> Figure:
    """Draw networks as rows of layers, coloured by operation; below them the widths, where they are searched.

    Args:
        networks: one row each.
        operation_names: all operations of the space, which fixes their colours.
    """
    patches = require("matplotlib.patches")
    layers = max(len(network.operations) for network in networks)
    figure, axes = _figure(1.6 + 0.95 * (layers + 2), 1.15 * len(networks) + 0.2)
    colours = dict(zip(operation_names, _OPERATION_COLOURS * len(operation_names)))
    for row, network in enumerate(networks):
        blocks = [
            ("stem", "white"),
            *((name, colours[name]) for name in network.operations),
            ("head", "white"),
        ]
        for column, (name, colour) in enumerate(blocks):
            corner = (column + 0.06, -row + 0.1)
            box = patches.FancyBboxPatch(
                corner, 0.82, 0.6, boxstyle="round,pad=0,rounding_size=0.1", facecolor=colour, edgecolor=_INK
            )
            axes.add_patch(box)
            axes.text(
                column + 0.47,
                -row + 0.4,
                plain(name).replace("_", "\n"),
                ha="center",
                va="center",
                fontsize=8,
                color=_text_colour(colour),
            )
            if column:
                axes.annotate(
                    "",
                    (column + 0.06, -row + 0.4),
                    (column - 0.12, -row + 0.4),
                    arrowprops={"arrowstyle": "-"},
                )
        axes.text(-0.1, -row + 0.4, network.title, ha="right", va="center", fontweight="bold")
        _draw_widths(axes, row, network.widths or (), layers)
    axes.set_xlim(-0.9, layers + 2)
    axes.set_ylim(-len(networks) + 0.8, 0.8)
    axes.axis("off")
    return figure


def plain(text: str, most: int = 60) -> str:
    """A name as matplotlib draws it letter by letter: no formula, no byte that is no letter, no endless line.

    Example:
        >>> plain("_a$b$")
        ' _a\\\\$b\\\\$'
    """
    shown = visible(text) if len(text) <= most else f"{visible(text[: most - 3])}..."
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib hides names that begin so


def is_finite(value: Any) -> bool:
    """Whether a value is a number that can be drawn."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _draw_widths(axes: Axes, row: int, widths: Sequence[float], layers: int) -> None:
    """A bar and a number for each width, below its layer where there is one for each, else evenly spread."""
    step = layers / max(len(widths), 1)
    for position, width in enumerate(widths):
        left = 1.06 + step * position
        axes.plot([left, left + width * (step - 0.18)], [-row + 0.03] * 2, color=_INK, linewidth=3)
        axes.text(left, -row - 0.03, f"{width:g}", ha="left", va="top", fontsize=7, color=_INK)


def _points(evaluated: Sequence[Evaluated], score: str) -> tuple[list[float], list[float]]:
    return [item.macs / 1e6 for item in evaluated], [_drawn(item.scores, score) for item in evaluated]


def _drawn(scores: Scores, score: str) -> float:
    """A score as it is drawn; not a number, which matplotlib leaves out, where the network gives none."""
    if not scores.finite:
        return math.nan
    return scores.loss if score == "loss" else 100 * scores.accuracy


def _readable_blues() -> Colormap:
    """Return matplotlib's blues without those too pale for white paper."""
    blues = require("matplotlib").colormaps["Blues"]
    return require("matplotlib.colors").ListedColormap(blues([0.3 + 0.7 * i / 255 for i in range(256)]))


def _text_colour(background: str) -> str:
    red, green, blue, _ = require("matplotlib.colors").to_rgba(background)
    return _INK if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = require("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    return figure, axes
