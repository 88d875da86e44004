"""The figures of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kshot_ext.nas import drawing
from kshot_ext.nas.extras import require
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.searchers.pareto import Evaluated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_OPERATION_COLOURS = ("#C9CED6", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#F0E442")
_SCORE_LABELS = {
    "loss": "validation loss in the supernet (nats)",
    "accuracy": "validation accuracy in the supernet (%)",
}


@functools.cache
def rehearse() -> None:
    """Draw something, so that what keeps figures from being drawn shows before there is much to lose."""
    drawing.to_png(drawing.plot_curves({"line": [(1, 1.0), (2, 2.0)]}, "x", "y"))


def plot_losses(records: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Figure:
    """Draw training loss over epochs, one line per stage.

    Args:
        records: lines of ``metrics.jsonl``; those with a ``loss`` are drawn.
        titles: legend of each stage, by its name in the records.
    """
    curves = {
        title: [(r["step"], r["loss"]) for r in records if r["stage"] == stage and drawing.is_finite(r.get("loss"))]
        for stage, title in titles.items()
    }
    figure = drawing.plot_curves(curves, "epoch", "training loss")
    figure.axes[0].set_ylim(bottom=0)
    return figure


def plot_search(front: Sequence[Evaluated], result: RunResult) -> Figure:
    """Draw the score that chose against multiply-accumulates: all considered, the Pareto front, the budget."""
    history = result.considered
    figure, axes = drawing.new_figure(7, 4.6)
    dots = axes.scatter(*_points(history, result.score), c=range(1, len(history) + 1), cmap=_readable_blues(), s=22)
    figure.colorbar(dots, ax=axes, label="order of evaluation", pad=0.02).outline.set_visible(False)
    axes.plot(
        *_points(front, result.score), color=drawing.ORANGE, linewidth=2, marker="o", markersize=5, label="Pareto front"
    )
    axes.axvline(result.max_macs / 1e6, color=drawing.RED, linestyle="--", linewidth=1.3, label="budget")
    marks = [("*", drawing.GREEN)] * len(result.networks) + [("D", drawing.GREY)] * len(result.rivals)
    for network, (marker, colour) in zip(result.compared, marks):
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
    figure, axes = drawing.new_figure(6, 4.6)
    axes.scatter(truth, [_drawn(each, score) for each in scores], s=16, color=drawing.BLUE, alpha=0.6, label=legend)
    axes.set_xlabel("accuracy in the table")
    axes.set_ylabel(_SCORE_LABELS[score])
    figure.legend(frameon=False, loc="outside upper center")
    return figure


def draw_architectures(networks: Sequence[RetrainedNetwork], operation_names: Mapping[str, str]) -> Figure:
    """Draw networks as rows of layers, coloured by operation; below them the widths, where they are searched.

    Args:
        networks: one row each.
        operation_names: all operations of the space, each with the one whose weights it has, which fixes its colour.
    """
    patches = require("matplotlib.patches")
    layers = max(len(network.operations) for network in networks)
    figure, axes = drawing.new_figure(1.6 + 0.95 * (layers + 2), 1.15 * len(networks) + 0.2)
    colours = dict(zip(dict.fromkeys(operation_names.values()), _OPERATION_COLOURS * len(operation_names)))
    for row, network in enumerate(networks):
        blocks = [
            ("stem", "white"),
            *((name, colours[operation_names[name]]) for name in network.operations),
            ("head", "white"),
        ]
        for column, (name, colour) in enumerate(blocks):
            corner = (column + 0.06, -row + 0.1)
            box = patches.FancyBboxPatch(
                corner, 0.82, 0.6, boxstyle="round,pad=0,rounding_size=0.1", facecolor=colour, edgecolor=drawing.INK
            )
            axes.add_patch(box)
            axes.text(
                column + 0.47,
                -row + 0.4,
                drawing.plain(name).replace("_", "\n").replace("@", "\n"),
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


def _draw_widths(axes: Axes, row: int, widths: Sequence[float], layers: int) -> None:
    """A bar and a number for each width, below its layer where there is one for each, else evenly spread."""
    step = layers / max(len(widths), 1)
    for position, width in enumerate(widths):
        left = 1.06 + step * position
        axes.plot([left, left + width * (step - 0.18)], [-row + 0.03] * 2, color=drawing.INK, linewidth=3)
        axes.text(left, -row - 0.03, f"{width:g}", ha="left", va="top", fontsize=7, color=drawing.INK)


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
    return drawing.INK if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
