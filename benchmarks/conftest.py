"""Fixture of `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.cases import Case
from benchmarks.check import check_values


@pytest.fixture
def time_case(benchmark) -> Callable[[str, Case], None]:
    """Function of an operator's name and a case: checks the values of the case's form, then times it."""

    def run(operator: str, case: Case) -> None:
        contest = case.row.contest()
        form, first = contest.form(case.form), next(iter(contest.rivals.values()))[0]
        reference = tuple(value.clone() for value in first.result())
        check_values(form.name, reference if form is first else form.result(), reference, contest.tolerance)
        benchmark.group = f"{operator}: {case.row.name}"
        benchmark.pedantic(form.run, setup=lambda: (form.prepare(), {}), rounds=10, warmup_rounds=2)

    return run
