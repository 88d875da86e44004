"""Every kind of work, on its smallest rows: the forms agree, and a whole row can be measured."""

import dataclasses

import pytest
from small_layers import SMALL

from benchmarks.measuring.check import available
from benchmarks.measuring.machine import machine
from benchmarks.measuring.measure import Settings, measure
from benchmarks.place import Place
from benchmarks.works import WORKS

PLACES = [
    Place("cpu"),
    Place("cpu", "bfloat16"),
    Place("cpu", "float16"),
    Place("cuda"),
    Place("cuda", "tf32"),
    Place("cuda", "bfloat16"),
]
WHERE = [
    pytest.param(name, place, id=f"{name} {place}", marks=pytest.mark.gpu if place.device == "cuda" else ())
    for name, work in WORKS.items()
    for place in PLACES
    if place.precision in work.precisions
]


@pytest.mark.parametrize(("work", "place"), WHERE)
def test_forms_agree_and_are_measured(work, place):
    here = machine(place)
    for row in WORKS[work].rows(SMALL):
        contest = row.contest(place)
        once = dataclasses.replace(row, contest=lambda place, contest=contest: contest)  # building takes seconds
        with place.settings():
            result = measure(work, "small", once, Settings(pairs=2, compiled=False, memory=False), here)
        assert result.name == row.name
        assert result.ours.seconds > 0
        assert set(result.rivals) == set(contest.rivals)


def test_per_sample_and_shared_codes_meet_pytorch_in_all_forms():
    for work, count in (("shared_code", 8), ("per_sample_code", 8)):
        contest = available(WORKS[work].rows(SMALL)[0].contest(), compiled=True)
        assert len(contest.rivals["pytorch"]) == count
