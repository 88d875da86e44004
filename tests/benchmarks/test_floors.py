"""Rates that a time means, and the floor it is held against."""

import pytest
from small_layers import SMALL

from benchmarks import floors
from benchmarks.floors import Achieved, Rates, achieved, achieved_rows, measured_rates
from benchmarks.measuring.machine import Host
from benchmarks.measuring.measure import RowResult, Timed
from benchmarks.measuring.timing import Ratio
from benchmarks.networks import layer_sets
from benchmarks.place import Place
from benchmarks.reporting.results import Part
from benchmarks.works import WORKS
from benchmarks.works.row import Demand, Row

ROW = Row("a", "dense", "", 1, lambda: None, traffic=400, operations=6000)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (Rates(100, 3000), Achieved(40, 600, 4, "bytes", 0.4)),
        (Rates(100, 1000), Achieved(40, 600, 6, "operations", 0.6)),
        (Rates(100, 3000, number_bytes=2), Achieved(20, 600, 2, "bytes", 0.2)),
    ],
)
def test_achieved(rates, expected):
    assert achieved(ROW, 10, rates) == expected


def test_parts_run_one_after_the_other():
    parts = [Demand(400, 6000), Demand(100, 0), Demand(0, 3000)]  # 4, 1 and 1 seconds at these rates
    row = Row("a", "step", "", 1, lambda: None, parts=lambda: parts)
    assert achieved(row, 10, Rates(100, 3000)) == Achieved(50, 900, 6, "bytes", 0.6)
    assert achieved(row, 10, Rates(100, 1000)) == Achieved(50, 900, 10, "operations", 1.0)


def test_traffic_that_is_not_modelled_is_an_error():
    with pytest.raises(ValueError, match="row 'a' has no model of its traffic"):
        achieved(Row("a", "step", "", 1, lambda: None), 1.0, Rates(1, 1))


@pytest.mark.parametrize("work", ["shared_code", "training_step"])
def test_rows_of_a_part(work, monkeypatch):
    monkeypatch.setitem(layer_sets(), "small", SMALL)
    rows = WORKS[work].rows(SMALL)
    results = [RowResult(row.name, row.kind, "", 1, Timed("auto", 0.5, None), {}) for row in rows]
    found = achieved_rows(Part(work, "small", 1, Ratio(1, 1, 1), {}, results), Rates(1, 1))
    assert [row.name for row, _, _ in found] == ([] if work == "training_step" else [row.name for row in rows])
    for row, _, reached in found:
        assert reached.bytes_per_second == 2 * row.traffic


@pytest.mark.parametrize(("precision", "number_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_rates_are_measured(precision, number_bytes, monkeypatch):
    monkeypatch.setattr(floors, "COPY_NUMBERS", 2**18)
    monkeypatch.setattr(floors, "MATRIX_SIZES", {"cpu": 256})
    monkeypatch.setattr(floors, "IMAGES", {"cpu": (2, 32, 8, 8)})
    rates = measured_rates(Host(Place("cpu", precision)))
    assert 1e8 < rates.bytes_per_second < 1e13
    assert 1e8 < rates.operations_per_second < 1e14
    assert rates.number_bytes == number_bytes
