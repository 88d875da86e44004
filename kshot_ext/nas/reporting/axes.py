"""Where the marks of a chart are: axes with round numbers, and places as percentages of what is between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from kshot_ext.nas.charts import Chart, Mark, Series, is_finite

_MOST_TICKS = 6
_MARGIN = 0.04
_LEAST_WIDTH = 1e-9  # of the numbers themselves: what rounding leaves
_MOST_DECIMALS = 9
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axis:
    """An axis from one number to another.

    Args:
        low, high: where it begins and ends; ``low < high``.
        names: of the numbers 0, 1, ...; empty for an axis that shows numbers.
        whole: whether only whole numbers are shown.

    Example:
        >>> Axis.over([3, 17]).ticks
        [(16.93, '5'), (50.0, '10'), (83.07, '15')]
    """

    low: float
    high: float
    names: tuple[str, ...] = ()
    whole: bool = False

    @classmethod
    def over(cls, values: Iterable[float], *, from_zero: bool = False) -> Axis:
        """An axis that has room for some values."""
        finite = [value for value in values if is_finite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        width = high - low
        if width <= _LEAST_WIDTH * max(abs(low), abs(high)):
            width = max(abs(low), abs(high)) or 1.0
        low = min(low, 0.0) if from_zero else low - _MARGIN * width
        return cls(low, high + _MARGIN * width, whole=all(float(value).is_integer() for value in finite))

    @classmethod
    def of_rows(cls, names: Sequence[str]) -> Axis:
        """An axis of names, the first of them on top."""
        return cls(-0.5, len(names) - 0.5, tuple(names))

    def place(self, value: float) -> float:
        """Where a value is, in percent of the axis."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places of round numbers, or of all names, with what stands there."""
        if self.names:
            return [(self.place(index), name) for index, name in enumerate(self.names)]
        step = _round_step((self.high - self.low) / _MOST_TICKS)
        if self.whole:
            step = float(max(1, math.ceil(step)))
        counts = (c for c in range(_MOST_DECIMALS) if math.isclose(step * 10**c, round(step * 10**c)))
        decimals = next(counts, None) if step < 10**_MOST_DECIMALS else None
        form = ".3g" if decimals is None else f",.{decimals}f"
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.place(number * step), f"{number * step:{form}}") for number in range(first, last + 1)]


class Drawn:
    """A chart with the places of all that is in it; x from the left and y from above, in percent.

    Args:
        chart: what is drawn.
    """

    def __init__(self, chart: Chart) -> None:
        self.chart = chart

    @cached_property
    def x_axis(self) -> Axis:
        """The axis below."""
        spreads = [end for series in self.chart.series for end in series.spread or ()]
        return Axis.over([*(mark.x for mark in self._marks), *spreads, *_value(self.chart.x_line)])

    @cached_property
    def y_axis(self) -> Axis:
        """The axis at the left."""
        if self.chart.rows:
            return Axis.of_rows(self.chart.rows)
        values = [*(mark.y for mark in self._marks), *_value(self.chart.y_line)]
        return Axis.over(values, from_zero=self.chart.from_zero)

    def x(self, value: float) -> float:
        """Place of a value of the x axis."""
        return self.x_axis.place(value)

    def y(self, value: float) -> float:
        """Place of a value of the y axis; names go from above, numbers from below."""
        place = self.y_axis.place(value)
        return place if self.chart.rows else round(100 - place, 2)

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Those of the y axis, from above."""
        if self.chart.rows:
            return self.y_axis.ticks
        return [(round(100 - place, 2), text) for place, text in self.y_axis.ticks]

    def line(self, series: Series) -> str:
        """The points of a line, in thousandths of the area."""
        return " ".join(f"{10 * self.x(mark.x):.0f},{10 * self.y(mark.y):.0f}" for mark in self.drawn(series))

    def drawn(self, series: Series) -> list[Mark]:
        """The marks that have numbers."""
        return [mark for mark in series.marks if is_finite(mark.x) and is_finite(mark.y)]

    def text(self, series: Series, mark: Mark) -> str:
        """What is said of a mark."""
        return mark.text or f"{series.name}: {mark.y:.6g} at {mark.x:,.6g}"

    @property
    def _marks(self) -> list[Mark]:
        return [mark for series in self.chart.series for mark in self.drawn(series)]


def _round_step(least: float) -> float:
    power = 10 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least * (1 - 1e-9))


def _value(line: tuple[float, str] | None) -> tuple[float, ...]:
    return () if line is None else line[:1]
