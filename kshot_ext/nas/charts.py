"""What figures show, as data; pages draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mark:
    """A point of a chart.

    Args:
        x, y: where it is.
        text: what is said when it is pointed at; empty for the numbers alone.
        key: of the architecture that it stands for; empty if it is none.
        strength: how strongly it is drawn, 0 to 1.
    """

    x: float
    y: float
    text: str = ""
    key: str = ""
    strength: float = 1.0


@dataclass(frozen=True)
class Series:
    """Points of a chart that have one name and look alike.

    Args:
        name: in the legend.
        marks: its points, in the order in which a line joins them.
        line: whether one does.
        look: ``"dot"``, or what the series is: one of ``"all"``, ``"front"``, ``"winner"``, ``"rival"``.
        spread: lowest and highest x of a bar at the height of the first mark, such as mean minus and plus a deviation.
    """

    name: str
    marks: Sequence[Mark]
    line: bool = False
    look: str = "dot"
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """Points and lines over two axes.

    Args:
        series: what is drawn, the first one lowest.
        x_label, y_label: of the axes.
        x_line, y_line: a value of an axis that is marked, with what it is.
        from_zero: whether the y axis begins at 0, so that near 0 looks near 0.
        rows: names of the heights 0, 1, ... from above, in the place of a y axis of numbers.
    """

    series: Sequence[Series]
    x_label: str
    y_label: str
    x_line: tuple[float, str] | None = None
    y_line: tuple[float, str] | None = None
    from_zero: bool = False
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class HeatMap:
    """Numbers from 0 to 1 as shades; a shade means the same number on every page.

    Args:
        values: of each row.
        rows, columns: their names.
        row_label, column_label: what rows and columns are.
        label: what the numbers are.
        mark: a value that the scale marks, with what it is.
    """

    values: Sequence[Sequence[float]]
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    label: str
    mark: tuple[float, str] | None = None


def curves_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    least: tuple[float, str] | None = None,
    *,
    from_zero: bool = False,
) -> Chart:
    """Lines with a mark at each point.

    Args:
        curves: ``(x, y)`` pairs of each line, by its legend.
        x_label, y_label: of the axes.
        least: a value and what it is, drawn as a line; the axis begins at 0 then.
        from_zero: whether it does so anyway.
    """
    series = [
        Series(name, [Mark(x, y) for x, y in points if is_finite(y)], line=True) for name, points in curves.items()
    ]
    return Chart(series, x_label, y_label, y_line=least, from_zero=from_zero or least is not None)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that can be drawn."""
    return isinstance(value, (int, float)) and math.isfinite(value)
