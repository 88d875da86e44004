"""Cases for pytest-benchmark: in every place, the forms of a row that need no compiling and no optional kernel."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from benchmarks.place import CPU, Place
from benchmarks.works import WORKS, find_row
from benchmarks.works.row import Row

PLACES = (CPU, Place("cuda", "tf32"), Place("cuda", "bfloat16"))


@dataclass(frozen=True)
class Case:
    """A form of a row in a place."""

    row: Row
    form: str
    place: Place

    @property
    def where(self) -> str:
        """The place, for people; nothing for the CPU."""
        return "" if self.place == CPU else f" on {self.place}"

    def __str__(self) -> str:
        return f"{self.row.name}-{self.form}{self.where}"


class SumOfTimes:
    """A timer that stands still but for what is added, so that pytest-benchmark reports the times of our clocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.seconds += seconds

    def __call__(self) -> float:
        return self.seconds


TIMER = SumOfTimes()


def cases(work: str, layer_set: str, *rows: str) -> list:
    """A case for each place and each form of each named row, as parameters of a test."""
    found = []
    for name in rows:
        row = find_row(work, layer_set, name)
        forms = [form.name for form in row.contest().forms() if not (form.compiled or form.optional)]
        places = [place for place in PLACES if place.precision in WORKS[work].precisions]
        found += [Case(row, form, place) for place in places for form in forms]
    return [pytest.param(case, marks=_marks(case.place)) for case in found]


def _marks(place: Place) -> list[pytest.MarkDecorator]:
    timed = pytest.mark.benchmark(timer=TIMER)
    return [timed, pytest.mark.gpu] if place.device == "cuda" else [timed]
