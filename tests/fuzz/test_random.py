"""Random calls of every operator, outputs and all gradients against the reference in float64.

2,000 cases, the same in every run; `pytest -m long` tries ten times as many, new ones each time, and prints the seed
that repeats them: `KSHOT_FUZZ_SEED=SEED pytest -m long tests/fuzz`.
"""

from __future__ import annotations

import os
import secrets

import pytest
from fuzz.case import Case
from fuzz.check import check
from fuzz.strategies import OPERATORS, cases
from hypothesis import HealthCheck, given, seed, settings

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

SHARES = {
    "kshot_conv2d": 450,
    "batch_norm_act": 250,
    "kshot_linear": 200,
    "effective_weight": 200,
    "sgd_update": 100,
    "adamw_update": 100,
    "mix_weights": 120,
    "dtw_align": 50,
}
OTHERS = 106  # of each of the others
LONG = 10
_HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
SETTINGS = settings(deadline=None, database=None, suppress_health_check=_HEALTH)


def count(operator: str) -> int:
    return SHARES.get(operator, OTHERS)


@pytest.mark.parametrize("operator", OPERATORS)
def test_as_the_reference(operator: str) -> None:
    @settings(SETTINGS, max_examples=count(operator), derandomize=True)
    @given(cases(operator))
    def as_the_reference(case: Case) -> None:
        check(case)

    as_the_reference()


@pytest.mark.long
@pytest.mark.parametrize("operator", OPERATORS)
def test_as_the_reference_in_many_cases(operator: str) -> None:
    number = int(os.environ.get("KSHOT_FUZZ_SEED", secrets.randbelow(2**32)))
    print(f"KSHOT_FUZZ_SEED={number} repeats this run")

    @seed(number)
    @settings(SETTINGS, max_examples=LONG * count(operator), derandomize=False)
    @given(cases(operator))
    def as_the_reference(case: Case) -> None:
        check(case)

    as_the_reference()


def test_the_numbers_of_cases() -> None:
    assert sum(map(count, OPERATORS)) == 2000
