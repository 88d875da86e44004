"""The measurements of methods run, in a form that says nothing of the methods."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.compare import RESULTS
from benchmarks.methods.__main__ import measurement_of

NAMES = ["cream", "few-shot"]


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, (int, float)) else []


def shape_of(value: Any) -> Any:
    return {name: shape_of(inner) for name, inner in value.items()} if isinstance(value, dict) else None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_gives_what_the_committed_results_have(name: str) -> None:
    found = measurement_of(name)([0], quick=True)
    assert all(math.isfinite(number) for number in numbers_in(found))
    committed = json.loads((RESULTS / "methods" / f"{name}.json").read_text())
    assert shape_of(found) == shape_of(committed)
    for arms in committed["tasks"].values() if "tasks" in committed else [committed["arms"]]:
        assert len({arm["steps"] for arm in arms.values()}) == 1
        numbers = [number for arm in arms.values() for number in arm.values() if isinstance(number, dict)]
        assert {len(number["values"]) for number in numbers} == {3}
