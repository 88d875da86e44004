"""The measurements of methods run, in a form that says nothing of the methods."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.compare import RESULTS

MODULES = ["cream", "few_shot"]


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return import_module(f"benchmarks.methods.{request.param}")


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, (int, float)) else []


def shape_of(value: Any) -> Any:
    return {name: shape_of(inner) for name, inner in value.items()} if isinstance(value, dict) else None


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_gives_what_the_committed_results_have(module: ModuleType) -> None:
    found = module.run([0], quick=True)
    assert all(math.isfinite(number) for number in numbers_in(found))
    committed = json.loads((RESULTS / "methods" / f"{Path(module.__file__).stem}.json").read_text())
    assert shape_of(found) == shape_of(committed)
    arms = list(committed["arms"].values())
    assert len({arm["steps"] for arm in arms}) == 1
    seeds = [len(number["values"]) for arm in arms for number in arm.values() if isinstance(number, dict)]
    assert set(seeds) == {3}
