from __future__ import annotations

import math

import pytest

from kshot_ext.nas.charts import Chart, Mark, Series
from kshot_ext.nas.reporting.axes import Axis, Drawn


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.1, 0.9], ["0.2", "0.4", "0.6", "0.8"]),
        ([12_345, 6e6], ["0", "2,000,000", "4,000,000", "6,000,000"]),
        ([0.001, 0.0012], ["0.00100", "0.00105", "0.00110", "0.00115", "0.00120"]),
        ([1, 2], ["1", "2"]),  # whole numbers, such as epochs, have whole ticks
        ([5.5], ["5.3", "5.4", "5.5", "5.6", "5.7"]),
        ([math.nan, math.inf, 0.5, 1.5], ["0.6", "0.8", "1.0", "1.2", "1.4"]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(values: list[float], labels: list[str]) -> None:
    axis = Axis.over(values)
    assert [text for _, text in axis.ticks] == labels
    for place, text in axis.ticks:
        number = float(text.replace(",", ""))
        assert 0 <= place <= 100
        assert axis.low + place / 100 * (axis.high - axis.low) == pytest.approx(
            number, abs=0.01 * (axis.high - axis.low)
        )
    assert len(axis.ticks) <= 8


@pytest.mark.parametrize("values", [[], [0.0], [-3.0, -3.0], [1e-300], [1e300, -1e300], [1e9, 1e9 + 1e-6]])
def test_any_numbers_have_an_axis(values: list[float]) -> None:
    axis = Axis.over(values)
    assert axis.low < axis.high
    assert all(0 <= axis.place(value) <= 100 for value in values)
    assert len(axis.ticks) <= 8


def test_places_are_percentages_from_the_left_and_from_above() -> None:
    marks = [Mark(0, 10), Mark(1, 20), Mark(2, math.nan)]
    drawn = Drawn(Chart([Series("a", marks, line=True)], "x", "y", y_line=(0, "least"), from_zero=True))
    assert [drawn.x(mark.x) for mark in marks[:2]] == pytest.approx([3.7, 96.3], abs=0.01)  # 4 % of room at each end
    assert drawn.y(0) == 100
    assert drawn.y(20) == pytest.approx(100 * (1 - 20 / 20.8), abs=0.01)
    assert drawn.line(drawn.chart.series[0]) == f"37,{10 * drawn.y(10):.0f} 963,{10 * drawn.y(20):.0f}"
    assert drawn.drawn(drawn.chart.series[0]) == marks[:2]


def test_rows_have_names_from_above() -> None:
    drawn = Drawn(
        Chart([Series("a", [Mark(1, 0)], spread=(0, 9)), Series("b", [Mark(2, 1)])], "x", "", rows=["a", "b"])
    )
    assert drawn.y_ticks == [(25.0, "a"), (75.0, "b")]
    assert (drawn.y(0), drawn.y(1)) == (25, 75)
    assert drawn.x_axis.low < 0 < 9 < drawn.x_axis.high  # room for the bar
