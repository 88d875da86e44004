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


@pytest.fixture(scope="module", params=NAMES)
def found(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, measurement_of(request.param)([0], quick=True)


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_gives_numbers_for_each_arm(found: tuple[str, dict[str, Any]]) -> None:
    _, numbers = found
    assert all(math.isfinite(number) for number in numbers_in(numbers))
    assert len({arm["steps"] for arm in numbers["arms"].values()}) == 1


@pytest.mark.usefixtures("one_thread")
def test_the_committed_results_are_of_this_measurement(found: tuple[str, dict[str, Any]]) -> None:
    name, numbers = found
    committed = json.loads((RESULTS / "methods" / f"{name}.json").read_text())
    assert shape_of(numbers) == shape_of(committed)
    assert len({arm["steps"] for arm in committed["arms"].values()}) == 1
