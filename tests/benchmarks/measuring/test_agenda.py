"""The order of rows: what tells most comes first."""

import pytest
from small_layers import SMALL

from benchmarks.floors import Rates
from benchmarks.measuring.agenda import agenda
from benchmarks.networks import layer_sets
from benchmarks.works import WORKS

SLOW_MEMORY, SLOW_PRODUCTS = Rates(1e6, 1e12), Rates(1e12, 1e6)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(layer_sets(), "small", SMALL)


def names(asked, rates=SLOW_PRODUCTS) -> list[tuple[str, str, str]]:
    items = agenda(asked, {key[2]: rates for key in asked})
    return [(item.key[0], item.key[2], item.row.name) for item in items]


def test_every_row_once():
    asked = [(work, "small", precision) for work in ("widths", "batch_norm") for precision in ("tf32", "bfloat16")]
    found = names(asked)
    assert len(set(found)) == len(found)
    assert len(found) == sum(len(WORKS[key[0]].rows(SMALL)) for key in asked)


@pytest.mark.parametrize(("rates", "heavier"), [(SLOW_MEMORY, "dense"), (SLOW_PRODUCTS, "strided")])
def test_the_heaviest_of_a_kind_first(rates, heavier):
    """ "dense" moves 75 * 16 numbers for 75 * 60 products, "strided" 147 * 3 + 48 * 4 for 48 * 108."""
    order = [name for _, _, name in names([("shared_code", "small", "float32")], rates)]
    assert set(order[:2]) == {heavier, "depthwise"}


def test_every_group_before_the_second_row_of_any():
    asked = [("batch_norm", "small", "tf32"), ("shared_code", "small", "tf32"), ("shared_code", "small", "bfloat16")]
    first = names(asked)[:5]
    kinds = {row.name: row.kind for work in ("batch_norm", "shared_code") for row in WORKS[work].rows(SMALL)}
    groups = [(work, precision, kinds[name]) for work, precision, name in first]
    # Works in their own order; within a work, precisions as asked.
    assert [group[:2] for group in groups] == [
        ("shared_code", "tf32"),
        ("shared_code", "tf32"),
        ("shared_code", "bfloat16"),
        ("shared_code", "bfloat16"),
        ("batch_norm", "tf32"),
    ]
    assert len(set(groups)) == 5


def test_whole_steps_before_layers():
    asked = [("shared_code", "small", "tf32"), ("training_step", "small", "tf32")]
    order = [work for work, _, _ in names(asked)]
    steps = len({row.kind for row in WORKS["training_step"].rows(SMALL)})
    assert order[:steps] == ["training_step"] * steps
    assert order[steps] == "shared_code"
