"""Timings of `KShotAdamW` and of its peers."""

import pytest

from benchmarks.cases import cases

CASES = cases("adamw", "nas_bench_macro", "path")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kshot_adamw(time_case, case):
    time_case("KShotAdamW", case)
