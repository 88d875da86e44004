"""What all figures are made with: colours, axes, curves, and files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import write_bytes
from kshot_ext.nas.messages import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8F98"
LINES = (BLUE, GREEN, ORANGE, RED, GREY)
INK = "#24292F"


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


def plot_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    least: tuple[float, str] | None = None,
) -> Figure:
    """Draw lines with a marker at each point.

    Args:
        curves: ``(x, y)`` pairs of each line, by its legend.
        x_label, y_label: of the axes.
        least: a value and what it is, drawn as a dashed line; the axis begins at 0 then, so that near 0 looks near 0.
    """
    figure, axes = new_figure(7, 4)
    lines = []
    for index, (title, points) in enumerate(curves.items()):
        colour = LINES[index % len(LINES)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        lines += axes.plot(xs, ys, color=colour, label=plain(title), marker="o", markersize=3, linewidth=1.8)
    axes.xaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(integer=True))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if least is not None:
        lines.append(axes.axhline(least[0], color=RED, linestyle="--", linewidth=1.3, label=plain(least[1])))
        axes.set_ylim(bottom=0)
    axes.legend(handles=lines, frameon=False)
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


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of a size in inches, and its axes."""
    figure = require("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    return figure, axes
