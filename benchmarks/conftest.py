"""Fixture of `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.cases import TIMER, Case
from benchmarks.measuring.check import check_values
from benchmarks.measuring.machine import machine

ROUNDS, WARM_UP_ROUNDS = 10, 2


@pytest.fixture
def time_case(benchmark) -> Callable[[str, Case], None]:
    """Function of an operator's name and a case: checks the values of the case's form, then times it."""

    def run(operator: str, case: Case) -> None:
        clock = machine(case.place).clock
        with case.place.settings():
            contest = case.row.contest(case.place)
            form, first = contest.form(case.form), next(iter(contest.rivals.values()))[0]
            reference = tuple(value.clone() for value in first.result())
            check_values(form.name, reference if form is first else form.result(), reference, contest.tolerance)
            benchmark.group = f"{operator}: {case.row.name}{case.where}"
            benchmark.pedantic(lambda: TIMER.add(clock.seconds(form)), rounds=ROUNDS, warmup_rounds=WARM_UP_ROUNDS)

    return run
